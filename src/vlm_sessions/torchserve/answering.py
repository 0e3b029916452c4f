"""The requests that are being answered, each from its arrival to the last byte of its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from vlm_sessions.errors import Draining
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.torchserve.exchange import plain_refusal

Answer = Callable[[HttpRequest], Awaitable[HttpReply]]


class Answering:
    """Counts them, and can end those that wait for a reply. Belongs to one event loop."""

    def __init__(self) -> None:
        self.num = 0
        self._none = asyncio.Event()
        self._none.set()
        self._refuses_new = False
        self._waiting: set[asyncio.Timeout] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Inside, one request more is being answered."""
        self.num += 1
        self._none.clear()
        try:
            yield
        finally:
            self.num -= 1
            if not self.num:
                self._none.set()

    async def none_left(self) -> None:
        """Wait until there is none."""
        await self._none.wait()

    async def reply(self, request: HttpRequest, answer: Answer) -> HttpReply:
        """The reply of ``answer``, or a refusal if that would come after the end."""
        if self._refuses_new:
            return _shutting_down()
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                return await answer(request)
        except TimeoutError:
            if not waiting.expired():
                raise
            return _shutting_down()
        finally:
            self._waiting.discard(waiting)

    def refuse_new(self) -> None:
        """Answer nothing that comes from now on."""
        self._refuses_new = True

    def cut_short(self) -> None:
        """Refuse what has no reply yet. A stream that has begun is not touched."""
        for waiting in self._waiting:
            waiting.reschedule(0)


def _shutting_down() -> HttpReply:
    return plain_refusal(Draining("The service is shutting down. Send the request again."))
