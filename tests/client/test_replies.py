from __future__ import annotations

import json
from typing import Any

import pytest

from vlm_sessions import errors as server
from vlm_sessions.client import (
    Answer,
    Busy,
    ConnectionFailed,
    ConversationConflict,
    InvalidRequest,
    ProtocolError,
    ServiceError,
    ServiceFailed,
    ServiceUnavailable,
    SessionEnded,
    replies,
)
from vlm_sessions.client.answers import AnswerReader
from vlm_sessions.client.errors import STATUS_OF_LATE_ERRORS
from vlm_sessions.client.wire import Reply
from vlm_sessions.protocol.dialects.native import NativeWriter
from vlm_sessions.protocol.schema import Answer as ServedAnswer
from vlm_sessions.protocol.schema import TextDelta
from vlm_sessions.protocol.schema import Timing as ServedTiming
from vlm_sessions.protocol.schema import Usage as ServedUsage

WRITER = NativeWriter()
SERVED = ServedAnswer(
    text="two circles",
    finish_reason="stop",
    usage=ServedUsage(prompt_tokens=90, cached_tokens=64, completion_tokens=2, dropped_turns=3),
    timing=ServedTiming(queue_ms=0.5, ttft_ms=None, total_ms=12.0),
)


def error_reply(error: server.VlmError) -> Reply:
    return Reply(error.status, WRITER.error(error), error.retry_after)


@pytest.mark.parametrize(
    ("served", "met"),
    [
        (server.InvalidField, InvalidRequest),
        (server.NotFound, InvalidRequest),
        (server.SessionNotFound, SessionEnded),
        (server.ConversationMismatch, ConversationConflict),
        (server.SessionExpired, SessionEnded),
        (server.PayloadTooLarge, InvalidRequest),
        (server.InvalidImage, InvalidRequest),
        (server.QueueFull, Busy),
        (server.Internal, ServiceFailed),
        (server.Draining, ServiceUnavailable),
        (server.DeadlineExceeded, ServiceUnavailable),
        (server.InsufficientStorage, ServiceFailed),
    ],
)
def test_each_error_of_the_service_becomes_the_exception_a_caller_would_catch(
    served: type[server.VlmError], met: type[ServiceError]
) -> None:
    with pytest.raises(met) as caught:
        replies.raise_for_error(error_reply(served("what is wrong")))
    assert type(caught.value) is met
    assert (caught.value.code, caught.value.status) == (served.code, served.status)
    assert caught.value.retry_after == served.default_retry_after
    assert str(caught.value) == f"what is wrong ({served.status} {served.code})"


def test_an_error_page_of_something_in_between_is_quoted() -> None:
    reply = Reply(502, b"<html> <b>Bad\n Gateway</b>")
    assert str(replies.error_of(reply)) == "<html> <b>Bad Gateway</b> (502 unknown)"


def test_an_answer_is_read_as_the_service_writes_it() -> None:
    answer = replies.answer(Reply(200, WRITER.answer(SERVED)))
    assert (answer.text, answer.finish_reason) == ("two circles", "stop")
    assert (answer.usage.cached_tokens, answer.timing.ttft_ms) == (64, None)
    assert answer.usage.dropped_turns == 3


def test_a_reply_without_a_field_is_a_protocol_error_that_names_it() -> None:
    with pytest.raises(ProtocolError, match="'usage'"):
        replies.answer(Reply(200, b'{"text": "x", "finish_reason": "stop"}'))


@pytest.mark.parametrize("body", [b"hello", b"[]", b'"x"'])
def test_a_reply_that_is_no_object_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        replies.answer(Reply(200, body))


def read_stream(chunks: list[bytes]) -> tuple[list[str], Answer | None]:
    reader = AnswerReader()
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    reader.finish()
    return pieces, reader.answer


def test_a_stream_gives_its_pieces_and_then_the_answer() -> None:
    stream = b"".join(
        [
            WRITER.stream_start(),
            WRITER.stream_delta(TextDelta(text="two ")),
            WRITER.stream_delta(TextDelta(text="circles")),
            WRITER.stream_answer(SERVED),
        ]
    )
    pieces, answer = read_stream([stream[:40], stream[40:]])
    assert pieces == ["two ", "circles"]
    assert answer is not None
    assert answer.text == "two circles"


def test_a_stream_that_ends_too_early_is_a_broken_connection() -> None:
    with pytest.raises(ConnectionFailed, match="middle of the answer"):
        read_stream([WRITER.stream_delta(TextDelta(text="two "))])


@pytest.mark.parametrize(
    "served",
    [
        server.EngineLost,
        server.Internal,
        server.DeadlineExceeded,
        server.InsufficientStorage,  # found out when the turn is recorded, after its last piece
        server.SessionClosed,
    ],
)
def test_a_late_error_is_raised_with_the_status_it_would_have_had(
    served: type[server.VlmError],
) -> None:
    with pytest.raises(ServiceError) as caught:
        read_stream([WRITER.stream_error(served("sorry"))])
    assert (caught.value.code, caught.value.status) == (served.code, served.status)


def test_pieces_that_came_with_a_late_error_are_given_before_it() -> None:
    reader = AnswerReader()
    piece = WRITER.stream_delta(TextDelta(text="two "))
    assert reader.feed(piece + WRITER.stream_error(server.EngineLost("sorry"))) == ["two "]
    with pytest.raises(ServiceError, match="sorry"):
        reader.finish()


def test_the_table_of_late_errors_agrees_with_the_services_tree() -> None:
    def tree(root: type[server.VlmError]) -> list[type[server.VlmError]]:
        return [root] + [leaf for child in root.__subclasses__() for leaf in tree(child)]

    statuses = {kind.code: kind.status for kind in tree(server.VlmError)}
    assert statuses.items() >= STATUS_OF_LATE_ERRORS.items()


def test_an_unknown_event_is_a_protocol_error() -> None:
    event: dict[str, Any] = {"text": "x"}
    with pytest.raises(ProtocolError, match="surprise"):
        read_stream([b"event: surprise\ndata: " + json.dumps(event).encode() + b"\n\n"])
