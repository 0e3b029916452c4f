"""Replies as AWS event streams, for clients that read SageMaker's response streams.

    total length │ length of headers │ CRC-32 │ headers │ payload │ CRC-32
    4 bytes        4                   4        …         …         4 (of all that stands before it)

Integers are big endian and unsigned; the first CRC is that of both lengths. A header is a byte with
the length of its name, the name, a byte with the type of its value (7: a string), two bytes with
the value's length, the value. Source: Smithy's "Amazon Event Stream" specification.

Each chunk of a body becomes the payload of a ``PayloadPart`` event, the one that SageMaker's
``InvokeEndpointWithResponseStream`` defines. Its payloads joined are the body as it is without
frames: nothing but the frames is added, and a client must not take a part for a whole event.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from zlib import crc32

from vlm_sessions.protocol.http import Chunks, HttpReply, HttpRequest

CONTENT_TYPE = "application/vnd.amazon.eventstream"
INNER_CONTENT_TYPE = "x-amzn-sagemaker-content-type"
"""SageMaker's header for the type of the body within the frames."""

MAX_MESSAGE_BYTES = 8192
"""Of a whole message: as much as the worker sends at once, so that a frame is not cut in two."""

_STRING = 7
_FIXED_BYTES = 16
"""Both lengths and both checksums."""


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    encoded = b""
    for name, value in headers.items():
        encoded += struct.pack(">B", len(name)) + name.encode("ascii")
        encoded += struct.pack(">BH", _STRING, len(value)) + value.encode("ascii")
    return encoded


_HEADERS = _encode_headers(
    {
        ":message-type": "event",
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
    }
)
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES - _FIXED_BYTES - len(_HEADERS)


def accepts_event_stream(request: HttpRequest) -> bool:
    """Whether ``Accept`` names the type. A wildcard does not: it would change what all others get.

    Quality values do not rank, but 0 refuses (RFC 9110, section 12.4.2).
    """
    for media_range in request.headers.get("accept", "").split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        if name == CONTENT_TYPE:
            return not any(_is_refusal(parameter) for parameter in parameters)
    return False


def _is_refusal(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name == "q" and value != "" and value.strip("0.") == ""


def payload_parts(chunk: bytes) -> Iterator[bytes]:
    """``PayloadPart`` messages that hold ``chunk``, none for an empty one."""
    for start in range(0, len(chunk), MAX_PAYLOAD_BYTES):
        payload = chunk[start : start + MAX_PAYLOAD_BYTES]
        total = _FIXED_BYTES + len(_HEADERS) + len(payload)
        lengths = struct.pack(">II", total, len(_HEADERS))
        message = lengths + struct.pack(">I", crc32(lengths)) + _HEADERS + payload
        yield message + struct.pack(">I", crc32(message))


def frame(reply: HttpReply) -> HttpReply:
    """A success as an event stream. (An error keeps its status and its JSON: it is never framed.)

    A whole body is framed like a stream, as SageMaker does: who calls its streaming operation reads
    events, whatever was asked for.
    """
    headers = {**reply.headers, "content-type": CONTENT_TYPE}
    if "content-type" in reply.headers:
        headers[INNER_CONTENT_TYPE] = reply.headers["content-type"]
    if isinstance(reply.body, bytes):
        return replace(reply, headers=headers, body=b"".join(payload_parts(reply.body)))
    return replace(reply, headers=headers, body=FramedChunks(reply.body))


class FramedChunks(AsyncIterator[bytes]):
    """The messages of a stream's chunks, each as soon as its chunk is there.

    Raises nothing of its own and ends like its source: ``aclose`` may be called whenever the
    source's may.
    """

    def __init__(self, source: Chunks) -> None:
        self._source = source
        self._chunks = aiter(source)
        self._waiting: deque[bytes] = deque()

    def __aiter__(self) -> FramedChunks:
        return self

    async def __anext__(self) -> bytes:
        while not self._waiting:
            self._waiting.extend(payload_parts(await anext(self._chunks)))
        return self._waiting.popleft()

    async def aclose(self) -> None:
        """End the source. Safe to call twice, and after the end."""
        self._waiting.clear()
        await self._source.aclose()
