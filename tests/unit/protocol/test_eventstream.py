"""What we frame, AWS's own decoder takes apart: it checks both checksums of every message."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.protocol.eventstream import (
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    FramedChunks,
    accepts_event_stream,
    payload_parts,
)
from vlm_sessions.protocol.http import HttpRequest


def payloads_of(data: bytes) -> list[bytes]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [message.payload for message in buffer]


@given(st.lists(st.binary(min_size=1, max_size=300)))
def test_any_chunks_come_back_one_message_each(chunks: list[bytes]) -> None:
    framed = b"".join(part for chunk in chunks for part in payload_parts(chunk))

    assert payloads_of(framed) == chunks


def test_a_message_is_sagemakers_payload_part() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(payload_parts(b"a red circle")))
    (message,) = buffer

    assert message.headers == {
        ":message-type": "event",
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
    }
    assert message.payload == b"a red circle"


@pytest.mark.parametrize(
    ("num_bytes", "num_messages"),
    [(0, 0), (1, 1), (MAX_PAYLOAD_BYTES, 1), (MAX_PAYLOAD_BYTES + 1, 2), (20_000, 3)],
)
def test_no_message_is_larger_than_the_worker_sends_at_once(
    num_bytes: int, num_messages: int
) -> None:
    chunk = bytes(index % 251 for index in range(num_bytes))

    messages = list(payload_parts(chunk))

    assert len(messages) == num_messages
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in messages)
    assert b"".join(payloads_of(b"".join(messages))) == chunk


@pytest.mark.parametrize("index", [9, 50, -1], ids=["prelude", "headers", "end"])
def test_one_changed_byte_is_noticed_by_a_client(index: int) -> None:
    message = bytearray(next(payload_parts(b"a red circle")))
    message[index] ^= 1

    with pytest.raises(ChecksumMismatch):
        payloads_of(bytes(message))


@pytest.mark.parametrize(
    ("accept", "accepted"),
    [
        ("application/vnd.amazon.eventstream", True),
        ("Application/VND.Amazon.EventStream", True),
        ("text/event-stream, application/vnd.amazon.eventstream;q=0.5", True),
        ("application/vnd.amazon.eventstream; q=0.001, */*", True),
        ("application/vnd.amazon.eventstream;q=0", False),
        ("application/vnd.amazon.eventstream; Q=0.000", False),
        ("application/vnd.amazon.eventstream2", False),
        ("application/*, */*", False),
        ("text/event-stream", False),
        (" ,;,", False),
        ("", False),
    ],
)
def test_only_who_names_the_type_gets_frames(accept: str, accepted: bool) -> None:
    request = HttpRequest("r", "POST", "/invocations", {"accept": accept}, b"")

    assert accepts_event_stream(request) is accepted


def test_who_says_nothing_gets_no_frames() -> None:
    assert not accepts_event_stream(HttpRequest("r", "POST", "/invocations", {}, b""))


async def test_a_large_chunk_leaves_in_several_messages_and_an_empty_one_in_none() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"first"
        yield b""
        yield b"x" * 10_000

    messages = [message async for message in FramedChunks(chunks())]

    assert [payloads_of(message) for message in messages] == [
        [b"first"],
        [b"x" * MAX_PAYLOAD_BYTES],
        [b"x" * (10_000 - MAX_PAYLOAD_BYTES)],
    ]


@pytest.mark.parametrize("num_taken", [0, 1, 2])
async def test_leaving_frames_early_closes_the_stream_behind_them(num_taken: int) -> None:
    source = EndlessSource()
    framed = FramedChunks(source)
    for _ in range(num_taken):
        await anext(framed)

    await framed.aclose()
    await framed.aclose()

    assert source.closed
    with pytest.raises(StopAsyncIteration):
        await anext(framed)


class EndlessSource:
    """Chunks of two messages each until it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> EndlessSource:
        return self

    async def __anext__(self) -> bytes:
        if self.closed:
            raise StopAsyncIteration
        return b"x" * (MAX_PAYLOAD_BYTES + 1)

    async def aclose(self) -> None:
        self.closed = True
