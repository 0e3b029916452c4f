"""Any text, written as a stream and cut anywhere: its reader gets what was written, in frames too.

Read by the product's own client, and in frames by AWS's (botocore).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.eventstream import EventStreamBuffer

from bench.fuzz.dice import Dice, at_random
from bench.fuzz.target import Target
from vlm_sessions.client.sse import ServerSentEvent, SseParser
from vlm_sessions.errors import EngineLost
from vlm_sessions.protocol.dialects import NativeWriter, ReplyWriter
from vlm_sessions.protocol.eventstream import MAX_MESSAGE_BYTES, payload_parts
from vlm_sessions.protocol.openai_reply import ChatWriter
from vlm_sessions.protocol.schema import Answer, TextDelta, Timing, Usage


@dataclass(frozen=True, slots=True)
class Written:
    """``cuts`` are lengths of the chunks in which it arrives, used again and again."""

    pieces: Sequence[str]
    cuts: Sequence[int]
    as_chat: bool
    fails: bool
    repeat: int
    """So long is each piece: frames hold 8 kB."""


def _make(dice: Dice) -> Written:
    longest = dice.choice((8, 200, 200, 9000, 9000))
    return Written(
        pieces=[dice.text() for _ in range(dice.randrange(12))],
        cuts=[dice.randrange(1, longest) for _ in range(dice.randrange(1, 7))],
        as_chat=dice.one_in(2),
        fails=dice.one_in(4),
        repeat=700 if dice.one_in(50) else 1,
    )


def _check(written: Written) -> str:
    writer: ReplyWriter = NativeWriter()
    if written.as_chat:
        writer = ChatWriter(completion_id="chatcmpl-1", created=0, model="demo")
    texts = [_joined(piece * written.repeat) for piece in written.pieces]
    parts = [writer.stream_start(), *(writer.stream_delta(TextDelta(text=text)) for text in texts)]
    parts.append(_end(writer, "".join(texts), fails=written.fails))
    body = b"".join(parts)
    assert body.isascii()

    events = _read(_cut(body, written.cuts))
    read = _read_chat if written.as_chat else _read_native
    assert read(events, fails=written.fails) == texts

    messages = [message for part in parts for message in payload_parts(part)]
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in messages)
    assert _unframe(_cut(b"".join(messages), written.cuts)) == body
    return f"→ {'chat' if written.as_chat else 'native'}{', failed' if written.fails else ''}"


def _joined(text: str) -> str:
    """Two halves of a surrogate pair beside each other are, in JSON, the character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _end(writer: ReplyWriter, text: str, *, fails: bool) -> bytes:
    if fails:
        return writer.stream_error(EngineLost("The engine died. Try again."))
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    timing = Timing(queue_ms=0.0, ttft_ms=None, total_ms=0.0)
    return writer.stream_answer(Answer(text=text, finish_reason="stop", usage=usage, timing=timing))


def _cut(body: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    position = index = 0
    while position < len(body):
        length = lengths[index % len(lengths)]
        yield body[position : position + length]
        position, index = position + length, index + 1


def _read(chunks: Iterator[bytes]) -> list[ServerSentEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def _read_native(events: Sequence[ServerSentEvent], *, fails: bool) -> list[str]:
    *tokens, last = events
    assert all(event.event == "token" for event in tokens)
    texts = [json.loads(event.data)["text"] for event in tokens]
    data: dict[str, Any] = json.loads(last.data)
    if fails:
        assert (last.event, data["error"]["code"]) == ("error", "engine_lost")
    else:
        assert (last.event, data["text"]) == ("done", _joined("".join(texts)))
    return texts


def _read_chat(events: Sequence[ServerSentEvent], *, fails: bool) -> list[str]:
    assert all(event.event == "message" for event in events)
    if fails:
        *chunks, last = [json.loads(event.data) for event in events]
        assert last["error"]["code"] == "engine_lost"
    else:
        assert events[-1].data == "[DONE]"
        *chunks, last = [json.loads(event.data) for event in events[:-1]]
        assert last["choices"][0]["finish_reason"] == "stop"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    return [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:]]


def _unframe(chunks: Iterator[bytes]) -> bytes:
    buffer, body = EventStreamBuffer(), b""
    for chunk in chunks:
        buffer.add_data(chunk)
        body += b"".join(message.payload for message in buffer)
    return body


def stream_target() -> Target[Written]:
    return Target(at_random(_make), _check)
