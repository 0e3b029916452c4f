"""The worker's last minute: what runs may finish, what is new is refused, then it ends.

    SIGTERM ─▶ /ping fails ─ notice ─▶ new work is refused ─▶ nothing is being answered, or time is
               over ─▶ the service closes, which ends what still runs ─▶ its last words are written
               ─▶ the supervisor is told, which closes the edge and then ends us

A second SIGTERM ends the waiting, not the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from vlm_sessions.config import Settings
from vlm_sessions.torchserve.answering import Answering

CLOSE_SECONDS = 1.5
"""For the service to end what still runs and to close."""
LAST_WORDS_SECONDS = 1.0
"""For the errors that this means to reach the front end."""
LINGER_SECONDS = 5.0
"""Refusing what still comes: the front end alone would leave it waiting. The supervisor ends this
as soon as the edge lets nothing in any more."""


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """In seconds, from the signal; the notice is a part of the whole."""

    whole: float
    notice: float

    @classmethod
    def of(cls, settings: Settings) -> DrainTimes:
        return cls(settings.drain_seconds, settings.drain_notice_seconds)


class Draining:
    """Belongs to one event loop.

    Args:
        answering: what is waited for.
    """

    def __init__(self, answering: Answering, times: DrainTimes) -> None:
        self._answering = answering
        self._times = times
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Wait no longer."""
        self._hurried.set()

    async def wait(self, refuse_new: Callable[[], None]) -> None:
        """Return when nothing is being answered any more, or the time is over.

        Args:
            refuse_new: called once the notice is over.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._times.whole
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), self._times.notice)
        refuse_new()
        idle = asyncio.create_task(self._answering.none_left())
        hurried = asyncio.create_task(self._hurried.wait())
        limit = max(0.0, deadline - loop.time())
        await asyncio.wait({idle, hurried}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        hurried.cancel()

    async def end(
        self, close: Callable[[], Awaitable[None]], tell_drained: Callable[[], None]
    ) -> None:
        """Close the service, let the last words out, and refuse what still comes.

        Args:
            tell_drained: called when the last words are written.

        Raises:
            TimeoutError: it took too long to close.
        """
        self._answering.refuse_new()
        try:
            await asyncio.wait_for(close(), CLOSE_SECONDS)
        finally:
            self._answering.cut_short()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answering.none_left(), LAST_WORDS_SECONDS)
            tell_drained()
            await asyncio.sleep(LINGER_SECONDS)
