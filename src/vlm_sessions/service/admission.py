"""Who may come in: prompts of one session in order, not too many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from vlm_sessions.errors import QueueFull, SessionBusy


@dataclass(slots=True)
class _Line:
    """Prompts of one session: the lock's holder runs, the others wait in order of arrival."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Admission:
    """Lines of prompts, one for each session that has any. Belongs to one event loop."""

    def __init__(self, *, max_waiting_per_session: int, max_prompts: int) -> None:
        self._max_waiting = max_waiting_per_session
        self._max_prompts = max_prompts
        self._lines: dict[str, _Line] = {}
        self.num_prompts = 0
        """Running or waiting."""

    @asynccontextmanager
    async def admit(self, session_id: str | None) -> AsyncIterator[None]:
        """Wait for this session's turn, hold it while inside. Without a session nobody waits.

        Raises:
            QueueFull: at once, if too many wait already.
        """
        if self.num_prompts >= self._max_prompts:
            raise QueueFull("The service has as many prompts as it can queue. Retry later.")
        self.num_prompts += 1
        try:
            if session_id is None:
                yield
                return
            line = self._lines.get(session_id)
            if line is not None and line.length > self._max_waiting:
                raise QueueFull(
                    f"This session has a running prompt and {self._max_waiting} waiting ones, "
                    "which is the limit. Wait for an answer, or cancel one."
                )
            async with self._place(session_id):
                yield
        finally:
            self.num_prompts -= 1

    def num_in_line(self, session_id: str) -> int:
        """Prompts of this session, running or waiting."""
        line = self._lines.get(session_id)
        return 0 if line is None else line.length

    @asynccontextmanager
    async def claim(self, session_id: str) -> AsyncIterator[None]:
        """Hold this session's turn at once; prompts that come meanwhile wait.

        Raises:
            SessionBusy: a prompt is running or waiting.
        """
        if session_id in self._lines:
            raise SessionBusy(
                "A prompt of this session is running or waiting. Wait for its answer or cancel it, "
                "and send this again."
            )
        async with self._place(session_id):
            yield

    def check_integrity(self) -> None:
        """Assert that a line is there for as long as somebody stands in it."""
        assert 0 <= self.num_prompts <= self._max_prompts
        for line in self._lines.values():
            assert line.length > 0

    @asynccontextmanager
    async def _place(self, session_id: str) -> AsyncIterator[None]:
        line = self._lines.setdefault(session_id, _Line())
        line.length += 1
        try:
            async with line.turn:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[session_id]
