"""The table of sessions over a real journal, alone: its clock can be moved, so they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from random import Random

from vlm_sessions.config import Settings
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.session import Session, SessionImage
from vlm_sessions.sessions.store import SessionStore

IDLE_SECONDS = 1000
PICTURE_BYTES = 4096
GROUP = 64


class Table:
    """A store of sessions with a picture each, and a clock that moves only when it is told to."""

    def __init__(self, folder: Path, max_sessions: int, random: Random) -> None:
        settings = Settings(
            session_idle_seconds=IDLE_SECONDS,
            session_max_seconds=10**9,
            max_sessions=max_sessions,
            tombstone_seconds=1,
        )
        self._now = 1e9
        self._random = random
        self._store = SessionStore(Journal(folder), settings, lambda: self._now)
        self._held: list[str] = []

    async def start(self) -> None:
        await self._store.start()

    async def close(self) -> None:
        await self._store.close()

    async def grow(self, size: int) -> None:
        """Open more until there are so many."""
        while len(self._held) < size:
            count = min(GROUP, size - len(self._held))
            opened = await asyncio.gather(*(self._open() for _ in range(count)))
            self._held += [session.id for session in opened]

    async def times(self, count: int) -> dict[str, list[float]]:
        """Open ``count`` more, a second apart, and let each expire, while all others stay.
        Milliseconds, by what is done."""
        opens, expires = [], []
        await self._use_all()
        first = self._now
        for _ in range(count):
            opens.append(await _timed(self._open))
            self._now += 1.0
        self._now += IDLE_SECONDS / 2
        await self._use_all()
        # What was renewed is put right when its old time comes, which is that of all at once here.
        self._now = first + IDLE_SECONDS - 0.5
        await self._store.sweep()
        for _ in range(count):
            self._now += 1.0
            expires.append(await _timed(self._store.sweep))
        assert self._store.num_open == len(self._held), "those have expired, and no others"
        return {"opening in the store": opens, "expiring in the store": expires}

    async def _open(self) -> Session:
        content = self._random.randbytes(PICTURE_BYTES)
        image = SessionImage(sha256(content).hexdigest(), 224, 224, 64, "JPEG")
        return await self._store.open(
            model="m", system=None, images=(image,), contents={image.digest: content}
        )

    async def _use_all(self) -> None:
        for start in range(0, len(self._held), GROUP):
            group = self._held[start : start + GROUP]
            await asyncio.gather(*(self._store.touch(session_id) for session_id in group))


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work()
    return 1e3 * (time.perf_counter() - started)
