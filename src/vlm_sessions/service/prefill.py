"""Work ahead: what an opened session will surely need is computed before its first question."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from vlm_sessions.engine.interface import AsyncEngine, PixelSource
from vlm_sessions.engine.types import Retention, Sampling, Turn
from vlm_sessions.errors import VlmError
from vlm_sessions.logs import get_logger
from vlm_sessions.processing import Segment
from vlm_sessions.service.images import ImageDesk
from vlm_sessions.service.overload import Backlog
from vlm_sessions.service.work import salt_of
from vlm_sessions.sessions.session import Session

MAX_AT_ONCE = 32
"""Each keeps its images' bytes in memory and a place in the engine's queue. Where so many wait,
the engine has better things to do than to work ahead."""

_log = get_logger("prefill")


class Prefills:
    """Background turns without an answer, at most one for each session.

    They only warm caches: one that fails costs the first prompt time, never its answer.
    """

    def __init__(self, engine: AsyncEngine, images: ImageDesk, backlog: Backlog) -> None:
        self._engine = engine
        self._images = images
        self._backlog = backlog
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by session id

    def begin(
        self,
        session: Session,
        opening: Segment,
        contents: Mapping[str, bytes],
        *,
        after: str | None = None,
    ) -> None:
        """Start to compute ``opening``, unless much is being computed ahead already.

        Args:
            contents: digest -> bytes of its images, as far as the journal does not have them.
            after: a session whose own is waited for, since it is the beginning of this one.
        """
        if len(self._tasks) >= MAX_AT_ONCE:
            return
        turn = Turn(
            turn_id=uuid.uuid4().hex,
            tokens=opening.tokens,
            images=opening.images,
            sampling=Sampling(max_new_tokens=0),
            retention=Retention(session.id, session.expires_at),
            salt=salt_of(session.owner),
            client=session.owner or session.id,
        )
        pixels = self._images.pixel_source(contents, session.owner)
        task = asyncio.create_task(self._run(session.id, turn, pixels, after))
        self._tasks[session.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(session.id, None))

    async def done(self, session_id: str) -> None:
        """Wait until nothing is being computed ahead for this session."""
        task = self._tasks.get(session_id)
        if task is not None:
            await asyncio.wait([task])

    async def cancel(self, session_id: str) -> None:
        """End it, and wait until the engine has been told."""
        task = self._tasks.get(session_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        for session_id in tuple(self._tasks):
            await self.cancel(session_id)

    async def _run(
        self, session_id: str, turn: Turn, pixels: PixelSource, after: str | None
    ) -> None:
        try:
            if after is not None:
                await self.done(after)
            with self._backlog.waiting(turn.client) as wait:
                async for event in self._engine.submit(turn, pixels):
                    wait.hear(event)
        except VlmError as error:
            _log.warning("prefill_failed", session_id=session_id, code=error.code)
        except Exception:  # noqa: BLE001  # a task of its own: nobody else would tell
            _log.exception("prefill_failed", session_id=session_id)
