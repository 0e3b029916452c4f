"""What carries requests: the seam between the shared core and HTTP or SageMaker.

A transport knows how to send bytes and what its library may raise. Replies of 400 and more are
ordinary replies to it; ``ClientError`` is raised only when there is no reply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from vlm_sessions.client.wire import Reply, Request

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT = 65.0
"""Seconds; the service itself gives up a single reply after 55."""


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A reply whose body comes in ``chunks``; for a status of 400 or more they are the error."""

    status: int
    chunks: Iterator[bytes]
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class AsyncStreamReply:
    """As ``StreamReply``."""

    status: int
    chunks: AsyncIterator[bytes]
    retry_after: float | None = None


class Transport(Protocol):
    """Safe to use from several threads.

    Raises (all methods, and the chunks):
        ConnectionFailed: no connection, or it broke.
        TimedOut: no byte came in time.
    """

    def send(self, request: Request) -> Reply: ...

    def stream(self, request: Request) -> AbstractContextManager[StreamReply]:
        """Leaving the context ends the connection, whether or not the chunks were read."""
        ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """As ``Transport``."""

    async def send(self, request: Request) -> Reply: ...

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncStreamReply]: ...

    async def close(self) -> None: ...
