"""With a file of keys the door opens for its clients only, and each finds its own sessions only."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.door import MODEL, code_of, events_of, json_of, request, steady
from tests.support.keys import add_client, bearing
from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import Harness, serving
from vlm_sessions.config import Settings
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.engine.types import EngineStats
from vlm_sessions.errors import ConfigError
from vlm_sessions.logs import capture_standard_logs, configure_logs
from vlm_sessions.metrics import Metrics
from vlm_sessions.protocol.http import HttpReply, HttpRequest

PICTURE = encoded()
MESSAGES = [{"role": "user", "content": "What is this?"}]
UNKNOWN = "ts-seq-" + "f" * 32

OPENINGS: dict[str, HttpRequest] = {
    "ours": request({"type": "open_session"}),
    "an image": request(PICTURE, content_type="image/png"),
    "the sample's": request({"type": "start_session", "path": data_url(PICTURE)}),
    "the guide's": request({"requestType": "NEW_SESSION"}, session="NEW_SESSION"),
}
IN_SESSION: dict[str, HttpRequest] = {
    "prompt": request({"type": "prompt", "prompt": "What?"}),
    "streamed prompt": request({"type": "prompt", "prompt": "What?", "stream": True}),
    "the sample's prompt": request({"type": "send_text_prompt", "prompt_text": "What?"}),
    "chat on invocations": request({"messages": MESSAGES}),
    "chat": request({"model": MODEL, "messages": MESSAGES}, path="/v1/chat/completions"),
    "cancel": request({"type": "cancel_prompt"}),
    "describe": request({"type": "describe_session"}),
    "fork": request({"type": "fork_session"}),
    "rewind": request({"type": "rewind_session"}),
    "close": request({"type": "close_session"}),
    "the sample's close": request({"type": "close_session", "session_id": "own"}),
    "the guide's close": request({"requestType": "CLOSE"}),
}
OUTSIDE: dict[str, HttpRequest] = {
    **OPENINGS,
    "generate": request({"type": "generate", "prompt": "What?"}),
    "stateless chat": request({"model": MODEL, "messages": MESSAGES}, path="/v1/chat/completions"),
    "models": request(path="/v1/models", method="GET"),
    "metrics": request(path="/metrics", method="GET"),
    "another path of ours": request(path="/v1/embeddings"),
    "another method": request(path="/v1/models", method="POST"),
}
EVERYTHING: dict[str, HttpRequest] = OUTSIDE | IN_SESSION


def with_headers(asked: HttpRequest, headers: Mapping[str, str]) -> HttpRequest:
    return replace(asked, headers={**asked.headers, **headers})


class Door:
    """An endpoint over a service with a real journal, and two clients who have keys."""

    def __init__(self, harness: Harness, keys: Mapping[str, str]) -> None:
        self.harness = harness
        self.keys = keys
        self.metrics = Metrics()

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            self.harness.service,
            self.harness.settings,
            self.metrics,
            model=MODEL,
            engine_stats=steady(EngineStats()),
            num_open_sessions=lambda: self.harness.service.num_open_sessions,
        )

    async def ask(
        self, asked: HttpRequest, client: str | None, session: str | None = None
    ) -> HttpReply:
        headers = bearing(self.keys[client]) if client is not None else {}
        if session is not None:
            headers["x-amzn-sagemaker-session-id"] = session
            body = asked.body.replace(b'"own"', json.dumps(session).encode())
            asked = replace(asked, body=body)
        reply = await self._endpoint().handle(with_headers(asked, headers))
        if not isinstance(reply.body, bytes):
            await events_of(reply)
        return reply

    async def open(self, client: str | None, asked: HttpRequest = OPENINGS["ours"]) -> str:
        session: str = json_of(await self.ask(asked, client))["session_id"]
        return session


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    path = tmp_path / "keys"
    keys = {name: add_client(path, name) for name in ("alice", "bob")}
    async with serving(tmp_path / "state", api_keys_file=path) as harness:
        yield Door(harness, keys)


# --- who comes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", EVERYTHING.values(), ids=EVERYTHING)
async def test_without_a_key_of_ours_nothing_is_answered(door: Door, asked: HttpRequest) -> None:
    session = await door.open("alice")
    valid = door.keys["alice"]
    before = len(door.harness.engine.turns)
    for headers in (
        {},
        bearing("vlm-wrong"),
        bearing(""),
        bearing(valid[:-1]),
        {"authorization": valid},
        {"authorization": f"Basic {valid}"},
        {"x-api-key": "vlm-wrong"},
        {**bearing("vlm-wrong"), "x-api-key": valid},
    ):
        named = {"x-amzn-sagemaker-session-id": session}
        reply = await door.ask(with_headers(asked, {**headers, **named}), None)
        assert (reply.status, code_of(reply)) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "retry-after" not in reply.headers
    assert door.harness.service.num_open_sessions == 1
    assert len(door.harness.engine.turns) == before


@pytest.mark.parametrize(
    "form",
    [
        "authorization: Bearer {}",
        "authorization: bearer {}",
        "authorization:  BEARER   {} ",
        "x-api-key: {}",
    ],
)
async def test_a_key_may_come_in_either_header(door: Door, form: str) -> None:
    name, _, value = form.format(door.keys["alice"]).partition(":")
    headers = {name: value}
    reply = await door.ask(with_headers(OPENINGS["ours"], headers), None)
    assert reply.status == 200
    assert (
        await door.ask(IN_SESSION["describe"], "alice", json_of(reply)["session_id"])
    ).status == 200


async def test_ping_needs_no_key(door: Door) -> None:
    reply = await door.ask(request(path="/ping", method="GET"), None)
    assert reply.status == 200
    assert set(json_of(reply)) == {"status", "open_sessions", "prompts"}, "no name, no id"


async def test_no_figure_names_a_session_or_a_client(door: Door) -> None:
    session = await door.open("alice", OPENINGS["an image"])
    for asked in IN_SESSION.values():
        await door.ask(asked, "bob", session)
        await door.ask(asked, "alice", session)
    told = (await door.ask(OUTSIDE["metrics"], "bob")).body
    assert isinstance(told, bytes)
    assert b'operation="prompt"' in told
    for name in (session, session.removeprefix("ts-seq-"), "alice", "bob"):
        assert name.encode() not in told


async def test_a_client_of_openais_is_told_in_its_own_words(door: Door) -> None:
    reply = await door.ask(OUTSIDE["models"], None)
    assert json_of(reply)["error"]["type"] == "invalid_request_error"
    assert reply.headers["x-should-retry"] == "false"


async def test_the_endpoint_does_not_begin_without_its_file(tmp_path: Path) -> None:
    async with serving(tmp_path, api_keys_file=tmp_path / "none") as harness:
        with pytest.raises(ConfigError, match="VLM_API_KEYS_FILE"):
            Door(harness, {})._endpoint()


# --- whose sessions -----------------------------------------------------------------------------


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
@pytest.mark.parametrize("asked", IN_SESSION.values(), ids=IN_SESSION)
async def test_a_session_is_its_openers_and_unknown_to_others_in_every_dialect(
    door: Door, opening: HttpRequest, asked: HttpRequest
) -> None:
    session = await door.open("alice", opening)
    assert (await door.ask(IN_SESSION["prompt"], "alice", session)).status == 200
    before = await door.harness.service.describe(session, client="alice")

    other = await door.ask(asked, "bob", session)
    unknown = await door.ask(asked, "bob", UNKNOWN)
    assert (other.status, code_of(other)) == (404, "session_not_found")
    assert (other.body, other.headers) == (unknown.body, unknown.headers)
    assert await door.harness.service.describe(session, client="alice") == before

    assert (await door.ask(asked, "alice", session)).status == 200


@pytest.mark.parametrize("ending", ["closed", "expired"])
async def test_that_a_session_has_ended_is_told_to_its_owner_alone(door: Door, ending: str) -> None:
    session = await door.open("alice")
    if ending == "closed":
        await door.ask(IN_SESSION["close"], "alice", session)
    else:
        door.harness.clock.advance(5000)
    for asked in IN_SESSION.values():
        reply = await door.ask(asked, "alice", session)
        assert (reply.status, code_of(reply)) == (410, f"session_{ending}")
        reply = await door.ask(asked, "bob", session)
        assert (reply.status, code_of(reply)) == (404, "session_not_found")


async def test_a_fork_belongs_to_whom_its_parent_does(door: Door) -> None:
    parent = await door.open("alice")
    forked = json_of(await door.ask(IN_SESSION["fork"], "alice", parent))["session_id"]
    assert (await door.ask(IN_SESSION["describe"], "alice", forked)).status == 200
    assert (await door.ask(IN_SESSION["describe"], "bob", forked)).status == 404


async def test_ownership_outlives_a_restart_and_a_change_of_key(door: Door) -> None:
    session = await door.open("alice")
    await door.harness.restart()
    path = door.harness.settings.api_keys_file
    assert path is not None
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "bob" in line))
    path.chmod(0o600)
    changed = {**door.keys, "alice's new": add_client(path, "alice")}
    after = Door(door.harness, changed)
    assert (await after.ask(IN_SESSION["describe"], "alice", session)).status == 401
    assert (await after.ask(IN_SESSION["describe"], "alice's new", session)).status == 200
    assert (await after.ask(IN_SESSION["describe"], "bob", session)).status == 404


async def test_sessions_from_before_there_were_keys_wait_until_there_are_none_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys"
    keys = {"alice": add_client(path, "alice")}
    async with serving(tmp_path / "state") as harness:
        door = Door(harness, keys)

        async def restart(api_keys_file: Path | None) -> None:
            harness.settings = harness.settings.model_copy(update={"api_keys_file": api_keys_file})
            await harness.restart()

        async def status(client: str | None, session: str) -> int:
            return (await door.ask(IN_SESSION["describe"], client, session)).status

        nobodys = await door.open(None)
        await restart(path)
        assert await status("alice", nobodys) == 404
        alices = await door.open("alice")
        await restart(None)
        assert await status(None, nobodys) == 200
        assert [await status(client, alices) for client in (None, "alice")] == [404, 404], (
            "a start without the setting opens nobody's session to all"
        )
        await restart(path)
        assert await status("alice", alices) == 200


# --- what is shared, and what is told -----------------------------------------------------------


async def test_what_goes_to_the_engine_is_salted_with_its_client_and_with_nothing_without_keys(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys"
    keys = {name: add_client(path, name) for name in ("alice", "bob")}
    for file, clients in ((path, ("alice", "bob")), (None, (None,))):
        async with serving(
            tmp_path / f"{file is None}", api_keys_file=file, prefill_on_open=True
        ) as harness:
            door = Door(harness, keys)
            for client in clients:
                session = await door.open(client, OPENINGS["an image"])
                await door.ask(IN_SESSION["prompt"], client, session)
                await door.ask(OUTSIDE["generate"], client)
                await door.ask(IN_SESSION["rewind"], client, session)
            engine = harness.engine
            salts = [client or "" for client in clients]
            assert [turn.salt for turn in engine.turns] == [s for s in salts for _ in range(2)]
            assert {turn.salt for turn in engine.prefills} == set(salts)
            assert set(engine.located) <= set(salts)


async def test_describe_asks_the_engine_for_its_clients_part(door: Door) -> None:
    session = await door.open("bob")
    await door.ask(IN_SESSION["describe"], "bob", session)
    assert door.harness.engine.located == ["bob"]


async def test_one_picture_of_two_clients_is_prepared_for_each(door: Door) -> None:
    """Prepared once, the second to ask would wait less, and know that there was a first."""
    sessions = [(name, await door.open(name, OPENINGS["an image"])) for name in ("alice", "bob")]
    await asyncio.gather(*(door.ask(IN_SESSION["prompt"], *each) for each in sessions))
    assert door.harness.processor.num_pixel_calls == 2


# --- limits -------------------------------------------------------------------------------------


async def num_prompts_is(harness: Harness, num: int) -> None:
    for _ in range(10_000):
        if harness.service.num_prompts == num:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"there are never {num} prompts")


async def test_a_client_may_have_so_many_sessions_and_others_theirs(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = {name: add_client(path, name) for name in ("alice", "bob")}
    async with serving(tmp_path / "state", api_keys_file=path, max_sessions_per_key=1) as harness:
        door = Door(harness, keys)
        session = await door.open("alice")
        for asked in OPENINGS.values():
            reply = await door.ask(asked, "alice")
            assert (reply.status, code_of(reply)) == (429, "too_many_sessions")
            assert reply.headers["retry-after"] == "1"
        assert (await door.ask(IN_SESSION["fork"], "alice", session)).status == 429
        await door.open("bob")


async def test_without_keys_all_are_one_client(tmp_path: Path) -> None:
    async with serving(tmp_path, max_sessions_per_key=1, max_queued_per_key=1) as harness:
        door = Door(harness, {})
        session = await door.open(None)
        assert (await door.ask(OPENINGS["ours"], None)).status == 429
        harness.engine.gate.clear()
        running = asyncio.create_task(door.ask(IN_SESSION["prompt"], None, session))
        await harness.engine.reached.wait()
        assert (await door.ask(OUTSIDE["generate"], None)).status == 429
        harness.engine.gate.set()
        assert (await running).status == 200


@pytest.mark.parametrize("asked", ["prompt", "streamed prompt", "chat", "generate", "an image"])
async def test_a_client_may_have_so_many_prompts_and_others_theirs(
    tmp_path: Path, asked: str
) -> None:
    path = tmp_path / "keys"
    keys = {name: add_client(path, name) for name in ("alice", "bob")}
    async with serving(tmp_path / "state", api_keys_file=path, max_queued_per_key=2) as harness:
        door = Door(harness, keys)
        sessions = [await door.open("alice") for _ in range(3)]
        harness.engine.gate.clear()
        running = [
            asyncio.create_task(door.ask(IN_SESSION["prompt"], "alice", session))
            for session in sessions[:2]
        ]
        await num_prompts_is(harness, 2)
        named = sessions[2] if asked in IN_SESSION else None
        reply = await door.ask(EVERYTHING[asked], "alice", named)
        assert (reply.status, code_of(reply)) == (429, "queue_full")
        assert reply.headers["retry-after"] == "1"
        bobs = asyncio.create_task(door.ask(OUTSIDE["generate"], "bob"))
        await num_prompts_is(harness, 3)
        harness.engine.gate.set()
        assert {one.status for one in await asyncio.gather(*running, bobs)} == {200}
        assert (await door.ask(EVERYTHING[asked], "alice", named)).status == 200, (
            "there is room again"
        )


# --- secrets ------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    captured = [logging.getLogger(name) for name in ("vlm_sessions", "asyncio")]
    before = [(one.handlers, one.propagate, one.level) for one in captured]
    stream = io.StringIO()
    configure_logs("debug", log_content=True, stream=stream)
    capture_standard_logs()
    yield stream
    structlog.reset_defaults()
    for logger, (handlers, propagate, level) in zip(captured, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


async def test_a_key_is_in_no_log_and_in_no_reply_even_where_content_is_logged(
    door: Door, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.harness.settings = door.harness.settings.model_copy(update={"log_content": True})
    session = await door.open("alice")
    replies = [await door.ask(asked, "alice", session) for asked in IN_SESSION.values()]
    replies += [await door.ask(with_headers(OUTSIDE["models"], bearing("vlm-wrong")), None)]
    signed = "http://127.0.0.1:9/a.png?X-Amz-Signature=signed"
    replies += [await door.ask(request({"type": "open_session", "images": [signed]}), "alice")]
    assert code_of(replies[-1]) == "image_forbidden"

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(door.harness.service), "open", crash)
    replies.append(await door.ask(OPENINGS["ours"], "alice"))
    assert replies[-1].status == 500

    told = log.getvalue() + "".join(repr(reply) for reply in replies)
    assert "a bug" in told, "messages are logged here"
    assert door.keys["alice"] not in told
    assert door.keys["alice"].removeprefix("vlm-") not in told
    assert "vlm-wrong" not in told
    assert "signed" not in told.replace("unsigned", "")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {line.get("client") for line in lines if line["event"] == "request"} == {"alice", None}


def test_a_request_is_printed_without_what_may_be_a_key() -> None:
    asked = with_headers(OPENINGS["ours"], bearing("vlm-secret"))
    assert "vlm-secret" not in f"{asked!r} {asked}"


def test_the_setting_is_refused_on_sagemaker_where_no_key_would_arrive() -> None:
    environ: dict[str, Any] = {"VLM_API_KEYS_FILE": "/keys", "SAGEMAKER_BIND_TO_PORT": "8080"}
    with pytest.raises(ConfigError, match="IAM guards"):
        Settings.from_env(environ)
    assert Settings.from_env({"VLM_API_KEYS_FILE": "/keys"}).api_keys_file == Path("/keys")
