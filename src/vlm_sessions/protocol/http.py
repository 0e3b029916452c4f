"""A request and a reply, whatever server carries them. Header names are lower case throughout."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request as the edge received it."""

    request_id: str
    method: str
    path: str
    """Without query string, e.g. ``/invocations``."""
    headers: Mapping[str, str] = field(repr=False)
    """May hold an API key, so they are never printed."""
    body: bytes = field(repr=False)


class Chunks(Protocol):
    """A streamed body; an asynchronous generator is one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole reply: ``body`` is bytes, or for a stream (status 200 only) an iterator of chunks.

    A streaming reply's iterator never raises: a late failure is an ``error`` event within it.
    Who does not read it to its end calls its ``aclose``, at once also if nothing was read yet.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Chunks = b""
