"""Replies to clients that accept AWS event streams, taken apart by AWS's own decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer

from tests.support.door import ask, code_of, in_session, json_of, make_endpoint, request
from tests.support.stub_service import EXPIRES, SESSION, StubService, answer, refusing
from vlm_sessions.client.sse import ServerSentEvent, SseParser
from vlm_sessions.errors import EngineLost, QueueFull
from vlm_sessions.protocol.eventstream import CONTENT_TYPE, MAX_MESSAGE_BYTES
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.protocol.schema import TextDelta

STREAMED = {"type": "prompt", "prompt": "What is this?", "stream": True}
CHAT = {"messages": [{"role": "user", "content": "What is this?"}]}


def accepting(asked: HttpRequest, accept: str = CONTENT_TYPE) -> HttpRequest:
    return replace(asked, headers={**asked.headers, "accept": accept})


async def payloads_of(reply: HttpReply) -> list[bytes]:
    """The payloads of a framed reply; each chunk of a stream must be whole messages."""
    chunks = [reply.body] if isinstance(reply.body, bytes) else [c async for c in reply.body]
    payloads = []
    for chunk in chunks:
        buffer = EventStreamBuffer()
        buffer.add_data(chunk)
        messages = list(buffer)
        assert sum(message.prelude.total_length for message in messages) == len(chunk)
        assert {message.headers[":event-type"] for message in messages} == {"PayloadPart"}
        payloads += [message.payload for message in messages]
    return payloads


async def events_of(reply: HttpReply) -> list[ServerSentEvent]:
    return SseParser().feed(b"".join(await payloads_of(reply)))


async def test_each_event_of_a_stream_is_a_message_of_its_own() -> None:
    reply = await ask(StubService(), accepting(in_session(STREAMED)))
    payloads = await payloads_of(reply)

    assert reply.status == 200
    assert reply.headers["content-type"] == CONTENT_TYPE
    assert reply.headers["x-amzn-sagemaker-content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-amzn-sagemaker-session-id"] == f"{SESSION}; Expires={EXPIRES}"
    assert [event.event for payload in payloads for event in SseParser().feed(payload)] == [
        "token",
        "token",
        "done",
    ]


async def test_the_payloads_joined_are_the_stream_that_others_get() -> None:
    plain = await ask(StubService(), in_session(STREAMED))
    framed = await ask(StubService(), accepting(in_session(STREAMED)))

    assert not isinstance(plain.body, bytes)
    assert b"".join(await payloads_of(framed)) == b"".join([chunk async for chunk in plain.body])


async def test_a_streamed_chat_is_framed_too() -> None:
    asked = request({**CHAT, "stream": True}, path="/v1/chat/completions")

    events = await events_of(await ask(StubService(), accepting(asked)))

    assert events[-1].data == "[DONE]"
    deltas = [json.loads(event.data)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "a red circle"


@pytest.mark.parametrize(
    "asked",
    [
        in_session({**STREAMED, "stream": False}),
        in_session({"type": "describe_session"}),
        in_session({"type": "close_session"}),
        request({"type": "open_session"}),
        request(CHAT, path="/v1/chat/completions"),
    ],
    ids=["prompt", "describe", "close", "open", "chat"],
)
async def test_a_whole_answer_is_one_message(asked: HttpRequest) -> None:
    plain = await ask(StubService(), asked)
    framed = await ask(StubService(), accepting(asked))

    assert framed.headers["content-type"] == CONTENT_TYPE
    assert framed.headers["x-amzn-sagemaker-content-type"] == "application/json"
    (payload,) = await payloads_of(framed)
    assert json.loads(payload).keys() == json_of(plain).keys()


async def test_a_long_answer_is_several_messages_of_a_size_that_others_can_bear() -> None:
    service = StubService(script=(answer("x" * 20_000),))

    reply = await ask(service, accepting(in_session({**STREAMED, "stream": False})))
    payloads = await payloads_of(reply)

    assert len(payloads) == 3
    assert all(len(payload) < MAX_MESSAGE_BYTES for payload in payloads)
    assert json.loads(b"".join(payloads))["text"] == "x" * 20_000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_keeps_its_status_and_its_json(stream: bool) -> None:
    service = StubService(script=(QueueFull("Enough is waiting."),))

    reply = await ask(service, accepting(in_session({**STREAMED, "stream": stream})))

    assert (reply.status, code_of(reply)) == (429, "queue_full")
    assert reply.headers["content-type"] == "application/json"
    assert "x-amzn-sagemaker-content-type" not in reply.headers
    assert service.num_streams_open == 0


async def test_a_body_that_cannot_be_read_is_refused_in_json() -> None:
    reply = await ask(StubService(), accepting(request(b"{")))

    assert (reply.status, code_of(reply)) == (400, "invalid_json")


async def test_an_error_of_openais_path_is_openais() -> None:
    asked = request({**CHAT, "stream": True}, path="/v1/chat/completions")

    reply = await ask(refusing(QueueFull("Enough is waiting.")), accepting(asked))

    assert reply.status == 429
    assert json_of(reply)["error"]["type"] == "rate_limit_error"


async def test_a_late_failure_is_our_error_event_in_a_message() -> None:
    service = StubService(script=(TextDelta(text="a"), EngineLost("The engine died; try again.")))

    events = await events_of(await ask(service, accepting(in_session(STREAMED))))

    assert [event.event for event in events] == ["token", "error"]
    assert json.loads(events[1].data)["error"]["code"] == "engine_lost"


@pytest.mark.parametrize("num_messages_taken", [0, 1])
async def test_leaving_a_framed_stream_early_closes_the_prompt_behind_it(
    num_messages_taken: int,
) -> None:
    service = StubService()
    reply = await ask(service, accepting(in_session(STREAMED)))
    assert not isinstance(reply.body, bytes)
    chunks: Any = reply.body
    for _ in range(num_messages_taken):
        await anext(chunks)
    assert service.num_streams_open == 1

    await chunks.aclose()

    assert service.num_streams_open == 0


@pytest.mark.parametrize("path", ["/ping", "/metrics", "/v1/models"])
async def test_what_computes_nothing_is_never_framed(path: str) -> None:
    asked = request(path=path, method="GET", content_type=None)

    reply = await make_endpoint(StubService()).handle(accepting(asked))

    assert reply.status == 200
    assert reply.headers["content-type"] != CONTENT_TYPE


async def test_a_wildcard_changes_nothing() -> None:
    reply = await ask(StubService(), accepting(in_session(STREAMED), "*/*"))

    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert not isinstance(reply.body, bytes)
    await reply.body.aclose()
