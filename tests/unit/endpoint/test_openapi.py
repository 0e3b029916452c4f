"""The OpenAPI document says what the door takes and says: all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from bench.fuzz.described import Described
from bench.fuzz.dice import at_random
from bench.fuzz.targets.dialects import make_request
from tests.support.door import ask, json_of, make_endpoint, request
from tests.support.stub_service import SESSION, StubService, refusing
from vlm_sessions import errors
from vlm_sessions.endpoint.guard import OPEN_PATHS
from vlm_sessions.endpoint.openapi import openapi_document
from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.dialects import ChatDialect, read_chat, read_invocation
from vlm_sessions.protocol.headers import read_session_id
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.protocol.jsonio import parse_object

DESCRIBED = Described(openapi_document())
CHAT = ChatDialect("demo", clock=lambda: 0.0)
INVOCATIONS, COMPLETIONS = "/invocations", "/v1/chat/completions"

ACCEPTED: list[tuple[dict[str, Any], str | None]] = [
    ({"type": "open_session", "images": ["https://x/y.png", {"data": "aGk="}]}, None),
    ({"type": "open_session", "system": None, "session_id": None}, None),
    ({"type": "prompt", "prompt": "x", "stop": ["a"], "seed": 1, "session_id": SESSION}, SESSION),
    ({"type": "prompt", "prompt": "x", "stream": True}, SESSION),
    ({"type": "cancel_prompt"}, SESSION),
    ({"type": "describe_session"}, SESSION),
    ({"type": "fork_session"}, SESSION),
    ({"type": "rewind_session", "turns": 2}, SESSION),
    ({"type": "close_session"}, SESSION),
    ({"type": "generate", "prompt": "x", "max_new_tokens": None}, None),
    ({"type": "generate", "prompt": "x", "stream": True}, None),
    ({"type": "start_session", "path": "https://x/y.png", "more": None}, None),
    ({"type": "send_text_prompt", "prompt_text": "x", "session_id": SESSION}, SESSION),
    ({"type": "close_session", "session_id": SESSION}, SESSION),
    ({"requestType": "NEW_SESSION"}, None),
    ({"requestType": "CLOSE"}, SESSION),
]
IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
    {"messages": [{"role": "user", "content": "x"}], "stream": True},
    {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    {
        "messages": [
            {"role": "developer", "content": "x"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
            {"role": "user", "content": "x", "name": "me"},
        ],
        "model": "any",
        "n": 1,
        "tools": None,
        "response_format": {"type": "text"},
        "stop": "x",
        "top_k": -1,
        "more": None,
    },
]


async def whole(reply: HttpReply) -> bytes:
    if isinstance(reply.body, bytes):
        return reply.body
    return b"".join([chunk async for chunk in reply.body])


async def check(path: str, reply: HttpReply) -> None:
    DESCRIBED.check_reply(path, reply.status, reply.headers, await whole(reply))


def kinds(root: type[VlmError] = VlmError) -> Iterator[type[VlmError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from kinds(kind)


def test_it_is_an_openapi_document() -> None:
    validate(openapi_document())


async def test_it_is_published() -> None:
    reply = await ask(StubService(), request(path="/openapi.json", method="GET"))

    assert json_of(reply) == openapi_document()
    await check("/openapi.json", reply)


def test_every_route_and_method_of_the_door_is_in_it_and_nothing_else() -> None:
    assert DESCRIBED.methods == dict(make_endpoint(StubService()).routes)


@pytest.mark.parametrize("path", DESCRIBED.methods)
async def test_what_is_described_is_answered(path: str) -> None:
    asked = request({"type": "generate", "prompt": "x"}, path=path, method=DESCRIBED.methods[path])

    reply = await ask(StubService(), asked)

    assert reply.status not in (404, 405)
    await check(path, reply)


@pytest.mark.parametrize(("body", "session"), ACCEPTED, ids=lambda value: str(value)[:40])
async def test_what_our_dialects_send_and_get_is_described(
    body: dict[str, Any], session: str | None
) -> None:
    reply = await ask(StubService(), request(body, session=session))

    assert reply.status == 200
    assert DESCRIBED.accepts(INVOCATIONS, body)
    await check(INVOCATIONS, reply)


@pytest.mark.parametrize("path", [INVOCATIONS, COMPLETIONS])
@pytest.mark.parametrize("body", CHATS)
async def test_what_openais_clients_send_and_get_is_described(
    body: dict[str, Any], path: str
) -> None:
    reply = await ask(StubService(), request(body, path=path))

    assert reply.status == 200
    assert DESCRIBED.accepts(path, body)
    await check(path, reply)


async def test_image_bodies_are_described() -> None:
    content = openapi_document()["paths"][INVOCATIONS]["post"]["requestBody"]["content"]
    reply = await ask(StubService(), request(b"x", content_type="image/png"))

    assert {"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"} < set(content)
    await check(INVOCATIONS, reply)


@pytest.mark.parametrize("path", [INVOCATIONS, COMPLETIONS])
@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.code)
async def test_every_error_is_described_under_its_status(kind: type[VlmError], path: str) -> None:
    service = refusing(kind("No."))
    chat = {"messages": [{"role": "user", "content": "x"}]}
    native = {"type": "describe_session"}
    body = native if path == INVOCATIONS else chat

    reply = await ask(service, request(body, session=SESSION, path=path))

    assert reply.status == kind.status
    if kind.status != 405:  # of a method that the path does not have, so of no operation
        await check(path, reply)


def test_a_key_may_be_asked_for_on_every_path_but_those_open_to_all() -> None:
    paths = DESCRIBED.document["paths"]
    guarded = {path for path in paths if "401" in DESCRIBED.statuses(path)}

    assert guarded == set(paths) - OPEN_PATHS


@pytest.mark.parametrize("path", [INVOCATIONS, COMPLETIONS])
async def test_an_error_within_a_stream_is_described(path: str) -> None:
    service = StubService(script=(*StubService().script[:1], errors.EngineLost("Lost.")))
    body = CHATS[2] if path == COMPLETIONS else {"type": "prompt", "prompt": "x", "stream": True}

    reply = await ask(service, request(body, session=SESSION, path=path))

    assert reply.status == 200
    await check(path, reply)


def is_understood(asked: HttpRequest) -> bool:
    try:
        (read_invocation if asked.path == INVOCATIONS else read_chat)(asked, CHAT)
    except VlmError:
        return False
    return True


def test_no_body_is_understood_that_is_not_described() -> None:
    num_understood = 0

    def check(asked: HttpRequest) -> None:
        nonlocal num_understood
        if "image" in asked.headers["content-type"].lower() or not is_understood(asked):
            return
        num_understood += 1
        assert DESCRIBED.accepts(asked.path, parse_object(asked.body)), asked.body

    at_random(make_request)(1, range(3000), check)

    assert num_understood > 300


@settings(deadline=None)
@given(st.text("aZ0-_;. ", max_size=6) | st.text(max_size=6))
def test_the_header_of_a_session_is_read_as_it_is_described(value: str) -> None:
    parameter = DESCRIBED.document["paths"][INVOCATIONS]["post"]["parameters"][0]
    try:
        read_session_id(HttpRequest("", "POST", INVOCATIONS, {parameter["name"]: value}, b""))
        understood = True
    except VlmError:
        understood = False

    stripped = value.strip()  # as HTTP does
    assert understood == DESCRIBED.fits(parameter["schema"], stripped)
