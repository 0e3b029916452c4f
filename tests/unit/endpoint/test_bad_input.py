"""Bad input, each with its own error, through the door to the real service behind it."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.door import code_of, json_of, request
from tests.support.pictures import data_url, encode_image, encoded
from tests.unit.service.harness import Harness, serving
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.metrics import Metrics
from vlm_sessions.protocol.http import HttpReply, HttpRequest

PICTURE = data_url(encoded())
TWO_MEGAPIXELS = data_url(encode_image(Image.new("1", (2000, 1000))))
TOO_MANY_BYTES = base64.b64encode(bytes(1_100_000)).decode()
UNKNOWN = "ts-seq-" + "f" * 32


def prompt(**fields: Any) -> dict[str, Any]:
    return {"type": "prompt", "prompt": "q", "max_new_tokens": 5} | fields


def showing(image: object) -> dict[str, Any]:
    return {"type": "open_session", "images": [image]}


class Door:
    """An endpoint over a service with narrow limits and one open session."""

    def __init__(self, harness: Harness, session: str) -> None:
        self.harness = harness
        self.session = session
        self._endpoint = Endpoint(
            harness.service,
            harness.settings,
            Metrics(),
            model="m",
            engine_stats=harness.service.engine_stats,
            num_open_sessions=lambda: harness.service.num_open_sessions,
        )

    async def handle(self, asked: HttpRequest) -> HttpReply:
        return await self._endpoint.handle(asked)

    async def ask(self, body: dict[str, Any] | bytes, session: str | None = "own") -> HttpReply:
        return await self.handle(
            request(body, session=self.session if session == "own" else session)
        )


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    limits: dict[str, Any] = {
        "max_image_mb": 1,
        "max_payload_mb": 2,
        "max_image_megapixels": 1,
        "max_images_per_session": 2,
        "max_sessions": 2,
        "max_queued_per_session": 0,
        "max_prompt_chars": 3000,
        "limit_max_new_tokens": 50,
    }
    async with serving(tmp_path, **limits) as harness:
        yield Door(harness, await harness.open(PICTURE))


MALFORMED: list[tuple[str, dict[str, Any] | bytes, int, str]] = [
    ("not JSON", b"{", 400, "invalid_json"),
    ("not an object", b"[1]", 400, "invalid_json"),
    ("unknown type", {"type": "dance"}, 400, "unknown_type"),
    ("no type", {"prompt": "q"}, 400, "unknown_type"),
    ("a missing field", {"type": "prompt"}, 400, "invalid_field"),
    ("an unknown field", prompt(colour="red"), 400, "invalid_field"),
    ("a wrong type", prompt(prompt=7), 400, "invalid_field"),
    ("a number as text", prompt(max_new_tokens="5"), 400, "invalid_field"),
    ("mismatching ids", prompt(session_id="another"), 400, "session_id_mismatch"),
    ("no new tokens", prompt(max_new_tokens=0), 400, "invalid_field"),
    ("too many new tokens", prompt(max_new_tokens=51), 400, "invalid_field"),
    ("a negative temperature", prompt(temperature=-1), 400, "invalid_field"),
    ("top_p above 1", prompt(top_p=1.5), 400, "invalid_field"),
    ("a negative seed", prompt(seed=-1), 400, "invalid_field"),
    ("an empty stop", prompt(stop=[""]), 400, "invalid_field"),
    ("a reserved token", prompt(prompt="<image>"), 400, "reserved_text"),
    ("a text too long", prompt(prompt="x" * 3001), 422, "context_overflow"),
    ("a context too short", prompt(prompt="x" * 2500), 422, "context_overflow"),
    ("too many images", prompt(images=[PICTURE, PICTURE]), 422, "too_many_images"),
    ("another conversation", {"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]},
        409, "conversation_mismatch"),
    ("no image", prompt(images=[data_url(b"nonsense")]), 422, "invalid_image"),
    ("a truncated image", prompt(images=[data_url(encoded()[:60])]), 422, "invalid_image"),
    ("an image of too many pixels", prompt(images=[TWO_MEGAPIXELS]), 413, "payload_too_large"),
    ("an image of too many bytes", prompt(images=[TOO_MANY_BYTES]), 413, "payload_too_large"),
    ("a body of too many bytes", b" " * (2 * 2**20 + 1), 413, "payload_too_large"),
    ("an unknown scheme", prompt(images=["ftp://example.com/x"]), 400, "invalid_field"),
    ("the loopback", prompt(images=["http://127.0.0.1:1/x"]), 422, "image_forbidden"),
    ("the cloud's metadata", prompt(images=["http://169.254.169.254/"]), 422, "image_forbidden"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "code"), [one[1:] for one in MALFORMED], ids=[one[0] for one in MALFORMED]
)
async def test_bad_input_has_its_own_error_and_changes_nothing(
    door: Door, body: dict[str, Any] | bytes, status: int, code: str
) -> None:
    before = await door.harness.service.describe(door.session)

    reply = await door.ask(body)

    assert (reply.status, code_of(reply)) == (status, code)
    assert len(json_of(reply)["error"]["message"]) >= 20
    assert await door.harness.service.describe(door.session) == before
    assert door.harness.service.num_prompts == 0
    assert (await door.ask(prompt())).status == 200


async def test_ids_have_an_error_for_each_way_to_be_wrong(door: Door) -> None:
    closed = await door.harness.open()
    await door.harness.service.close_session(closed)
    expired = await door.harness.open()
    door.harness.clock.advance(1201)
    for session, status, code in (
        (UNKNOWN, 404, "session_not_found"),
        (closed, 410, "session_closed"),
        (expired, 410, "session_expired"),
        ("not_one", 400, "malformed_session_id"),
        ("x" * 201, 400, "malformed_session_id"),
        (f"{closed}; Expires=2030-01-01T00:00:00Z", 400, "malformed_session_id"),
        (None, 400, "bad_request"),
    ):
        for body in (prompt(), prompt(stream=True), {"type": "describe_session"}):
            reply = await door.ask(body, session)
            assert (reply.status, code_of(reply)) == (status, code)


async def test_an_image_of_another_kind_as_the_body_is_unsupported(door: Door) -> None:
    reply = await door.handle(request(b"II*\0", content_type="image/tiff"))
    assert (reply.status, code_of(reply)) == (415, "unsupported_media")


async def test_too_many_sessions_are_told_when_to_come_back(door: Door) -> None:
    assert (await door.ask(showing(PICTURE), None)).status == 200
    reply = await door.ask(showing(PICTURE), None)
    assert (reply.status, code_of(reply)) == (429, "too_many_sessions")
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_a_status_also_for_a_stream(door: Door, stream: bool) -> None:
    door.harness.engine.gate.clear()
    running = asyncio.create_task(door.ask(prompt(prompt="long")))
    await door.harness.engine.reached.wait()
    reply = await door.ask(prompt(stream=stream))
    assert (reply.status, code_of(reply)) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    door.harness.engine.gate.set()
    assert (await running).status == 200


async def test_a_url_that_nobody_answers_is_unreachable(tmp_path: Path) -> None:
    async with serving(tmp_path, fetch_allow=("127.0.0.1/32",)) as harness:
        door = Door(harness, await harness.open())
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            reply = await door.ask(showing(f"http://127.0.0.1:{unused.getsockname()[1]}/"), None)
        assert (reply.status, code_of(reply)) == (422, "image_unreachable")
