"""Streamed replies: what is known before the status, and how a stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.door import (
    ask,
    code_of,
    events_of,
    in_session,
    make_endpoint,
    request,
)
from tests.support.stub_service import ANSWER_EVENTS, StubService, StubStream, answer
from vlm_sessions.endpoint.stream import StreamBody
from vlm_sessions.errors import ContextOverflow, DeadlineExceeded, EngineLost
from vlm_sessions.protocol.http import HttpReply
from vlm_sessions.protocol.schema import AnswerEvent, TextDelta

STREAMED = {"type": "prompt", "prompt": "What is this?", "stream": True}


def body_of(reply: HttpReply) -> StreamBody:
    assert isinstance(reply.body, StreamBody)
    return reply.body


async def test_a_stream_is_tokens_and_then_the_whole_answer() -> None:
    service = StubService()

    reply = await ask(service, in_session(STREAMED))
    events = await events_of(reply)

    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event.event for event in events] == ["token", "token", "done"]
    assert [json.loads(event.data) for event in events[:2]] == [
        {"text": "a red"},
        {"text": " circle"},
    ]
    assert json.loads(events[2].data)["text"] == "a red circle"
    assert json.loads(events[2].data)["usage"]["cached_tokens"] == 70
    assert service.num_streams_open == 0


async def test_an_answer_without_text_is_a_stream_of_its_end_alone() -> None:
    reply = await ask(StubService(script=(answer(""),)), in_session(STREAMED))

    assert [event.event for event in await events_of(reply)] == ["done"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_with_the_first_event_has_its_own_status(stream: bool) -> None:
    service = StubService(script=(ContextOverflow("Too long."),))

    reply = await ask(service, in_session({**STREAMED, "stream": stream}))

    assert (reply.status, code_of(reply)) == (422, "context_overflow")
    assert reply.headers["content-type"] == "application/json"
    assert service.num_streams_open == 0


async def test_a_late_failure_is_an_error_event_and_the_end() -> None:
    service = StubService(script=(TextDelta(text="a"), EngineLost("The engine died; try again.")))

    events = await events_of(await ask(service, in_session(STREAMED)))

    assert [event.event for event in events] == ["token", "error"]
    assert json.loads(events[1].data) == {
        "error": {"code": "engine_lost", "message": "The engine died; try again."}
    }
    assert service.num_streams_open == 0


async def test_a_late_failure_of_a_single_reply_has_its_status() -> None:
    service = StubService(script=(TextDelta(text="a"), DeadlineExceeded("Too slow.")))

    reply = await ask(service, in_session({**STREAMED, "stream": False}))

    assert (reply.status, code_of(reply)) == (504, "deadline_exceeded")


async def test_a_bug_amid_a_stream_is_an_error_event_without_its_inner_life() -> None:
    service = StubService(script=(TextDelta(text="a"), KeyError("secret")))

    events = await events_of(await ask(service, in_session(STREAMED)))

    assert events[-1].event == "error"
    assert json.loads(events[-1].data)["error"]["code"] == "internal"
    assert "secret" not in events[-1].data


async def test_events_that_break_off_are_an_error_not_an_answer() -> None:
    service = StubService(script=(TextDelta(text="a"),))

    single = await ask(service, in_session({**STREAMED, "stream": False}))
    events = await events_of(await ask(service, in_session(STREAMED)))

    assert (single.status, code_of(single)) == (500, "internal")
    assert [event.event for event in events] == ["token", "error"]


@pytest.mark.parametrize("num_chunks_taken", [0, 1, 2])
async def test_leaving_a_stream_early_closes_the_prompt_behind_it(num_chunks_taken: int) -> None:
    service = StubService()
    body = body_of(await ask(service, in_session(STREAMED)))
    for _ in range(num_chunks_taken):
        await anext(body)
    assert service.num_streams_open == 1

    await body.aclose()
    await body.aclose()

    assert service.num_streams_open == 0
    with pytest.raises(StopAsyncIteration):
        await anext(body)


async def test_each_event_is_passed_on_as_soon_as_it_is_there() -> None:
    service = GatedService()
    body = body_of(await make_endpoint(service).handle(in_session(STREAMED)))

    assert b"first" in await anext(body)
    waiting = asyncio.ensure_future(anext(body))
    service.gate.set()

    assert b"second" in await waiting
    await body.aclose()


async def test_cancelling_a_request_that_waits_for_its_first_event_closes_the_prompt() -> None:
    service = GatedService(first="")
    handling = asyncio.ensure_future(make_endpoint(service).handle(in_session(STREAMED)))
    await asyncio.wait_for(service.waiting.wait(), timeout=10)

    handling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await handling
    assert service.num_streams_open == 0


async def test_cancelling_who_waits_for_a_chunk_closes_the_prompt() -> None:
    service = GatedService()
    body = body_of(await make_endpoint(service).handle(in_session(STREAMED)))
    await anext(body)
    waiting = asyncio.ensure_future(anext(body))
    await asyncio.wait_for(service.waiting.wait(), timeout=10)

    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert service.num_streams_open == 0


async def test_an_error_while_closing_does_not_spoil_the_answer() -> None:
    service = StubService()
    service_events = BadlyClosing()

    async def prompt(*_: object, client: str | None) -> StubStream:
        return StubStream(None, service_events.play())

    service.prompt = prompt  # type: ignore[method-assign]

    single = await ask(service, in_session({**STREAMED, "stream": False}))
    streamed = await events_of(await ask(service, in_session(STREAMED)))

    assert single.status == 200
    assert [event.event for event in streamed] == ["token", "token", "done"]


async def test_generate_streams_without_a_session_too() -> None:
    reply = await ask(StubService(), request({"type": "generate", "prompt": "x", "stream": True}))

    assert [event.event for event in await events_of(reply)] == ["token", "token", "done"]


class BadlyClosing:
    """Events whose end raises."""

    async def play(self) -> AsyncIterator[AnswerEvent]:
        try:
            for event in ANSWER_EVENTS:
                yield event
        finally:
            raise OSError("closing failed")


class GatedService(StubService):
    """Gives its second event, or with ``first=""`` its first one, only when the gate opens."""

    def __init__(self, first: str = "first") -> None:
        super().__init__()
        self.first = first
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()

    async def _play(self) -> AsyncIterator[AnswerEvent]:
        self.num_streams_open += 1
        try:
            if self.first:
                yield TextDelta(text=self.first)
            self.waiting.set()
            await self.gate.wait()
            yield TextDelta(text="second")
            yield answer()
        finally:
            self.num_streams_open -= 1
