"""The real service replies as the document says that it publishes, through the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import response_schema_conformance

from bench.fuzz.described import Described
from tests.torchserve.server import Server
from vlm_sessions.endpoint.openapi import openapi_document

PICTURE = (Path(__file__).parents[2] / "demo" / "pictures" / "shapes.png").read_bytes()
SESSION = "x-amzn-sagemaker-session-id"
INVOCATIONS, COMPLETIONS = "/invocations", "/v1/chat/completions"
QUESTION = {"prompt": "What is in the top left?", "max_new_tokens": 8}
CHAT = {"messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 8}


@pytest.fixture
def described(server: Server) -> Described:
    return Described(httpx.get(server.url + "/openapi.json").raise_for_status().json())


def ask(
    server: Server, described: Described, body: Any, session: str = "", path: str = INVOCATIONS
) -> httpx.Response:
    """Ask, and hold the reply against the document."""
    reply = httpx.post(server.url + path, json=body, headers={SESSION: session}, timeout=60)
    described.check_reply(path, reply.status_code, reply.headers, reply.content)
    return reply


def test_the_document_is_published_as_the_code_says_it(described: Described) -> None:
    assert described.document == openapi_document()


def test_the_edge_lets_through_what_is_described_and_by_its_method_only(
    server: Server, described: Described
) -> None:
    for path, method in described.methods.items():
        body = {"type": "generate", **QUESTION} if path == INVOCATIONS else CHAT
        for tried in ("GET", "POST"):
            reply = httpx.request(tried, server.url + path, json=body, timeout=60)
            if tried == method:
                assert reply.status_code == 200, (path, reply.text)
                described.check_reply(path, 200, reply.headers, reply.content)
            else:
                assert (reply.status_code, reply.headers["allow"]) == (405, method), path
    assert httpx.get(server.url + "/openapi.yaml").status_code == 404


def test_a_whole_session_replies_as_described(server: Server, described: Described) -> None:
    opened = httpx.post(
        server.url + INVOCATIONS, content=PICTURE, headers={"content-type": "image/png"}
    )
    described.check_reply(INVOCATIONS, opened.status_code, opened.headers, opened.content)
    session = opened.json()["session_id"]

    replies = [
        ask(server, described, body, session)
        for body in (
            {"type": "prompt", **QUESTION},
            {"type": "prompt", **QUESTION, "stream": True},
            CHAT,
            {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
            {"type": "send_text_prompt", "prompt_text": "What is this?", "session_id": session},
            {"type": "cancel_prompt"},
            {"type": "describe_session"},
            {"type": "rewind_session"},
        )
    ]
    fork = ask(server, described, {"type": "fork_session"}, session).json()["session_id"]
    ends = [
        ask(server, described, {"type": "close_session", "session_id": session}, session),
        ask(server, described, {"requestType": "CLOSE"}, fork),
    ]

    assert {reply.status_code for reply in replies + ends} == {200}


def test_what_is_refused_is_refused_as_described(server: Server, described: Described) -> None:
    prompt = {"type": "prompt", **QUESTION}
    refusals: list[tuple[Any, str, int]] = [
        ({"type": "nothing"}, "", 400),
        (prompt, "", 400),
        (prompt, "ts-seq-" + "0" * 32, 404),
        ({"type": "open_session", "images": ["http://127.0.0.2/"]}, "", 422),
        ({"type": "open_session", "images": ["aGk="]}, "", 422),
        ({"messages": []}, "", 400),
    ]
    for body, session, status in refusals:
        assert ask(server, described, body, session).status_code == status
    assert ask(server, described, {"messages": []}, path=COMPLETIONS).status_code == 400
    headers = {"content-type": "image/tiff"}
    tiff = httpx.post(server.url + INVOCATIONS, content=PICTURE, headers=headers)
    assert tiff.status_code == 415
    described.check_reply(INVOCATIONS, 415, tiff.headers, tiff.content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {**CHAT, "stream": True}),
        (INVOCATIONS, {"type": "generate", **QUESTION, "stream": True}),
    ],
)
def test_a_stream_is_what_others_read_in_the_document(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    """Of a stream's schema schemathesis takes each event to be described, others the text."""
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    case = schema[path]["POST"].Case(body=body, media_type="application/json")
    response = case.call(base_url=server.url, timeout=60)
    assert response.headers["content-type"][0].startswith("text/event-stream")
    case.validate_response(response, checks=[response_schema_conformance])


def test_the_bytes_of_a_picture_decide_whatever_its_content_type(server: Server) -> None:
    named_otherwise = httpx.post(
        server.url + INVOCATIONS, content=PICTURE, headers={"content-type": "image/jpeg"}
    )
    ask = httpx.post(
        server.url + INVOCATIONS,
        json={"type": "close_session"},
        headers={SESSION: named_otherwise.json()["session_id"]},
    )
    assert (named_otherwise.status_code, ask.status_code) == (200, 200)
