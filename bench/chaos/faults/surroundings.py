"""Clients that leave, and a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench.chaos.faults.base import NOTHING, Recovery, Scene


@dataclass(frozen=True, slots=True)
class LeaveStreams:
    """Every client closes its connection in the middle of its answer, again and again."""

    name: str = "cut mid-stream"
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    async def strike(self, scene: Scene) -> Recovery:
        scene.manners.leave_streams = True
        try:
            await asyncio.sleep(scene.some_seconds())
        finally:
            scene.manners.leave_streams = False
        left = time.time()
        return Recovery(await scene.stack.wait_serving() - left)


@dataclass(frozen=True, slots=True)
class BreakOffUploads:
    """Every client closes its connection in the middle of what it sends, again and again."""

    name: str = "cut mid-upload"
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    async def strike(self, scene: Scene) -> Recovery:
        scene.manners.break_off_uploads = True
        try:
            await asyncio.sleep(scene.some_seconds())
        finally:
            scene.manners.break_off_uploads = False
        left = time.time()
        return Recovery(await scene.stack.wait_serving() - left)


@dataclass(frozen=True, slots=True)
class JumpClock:
    """The wall clock jumps and, some seconds later, back. No session's time is over by that."""

    seconds: float
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    @property
    def name(self) -> str:
        return f"clock jumps {'ahead' if self.seconds > 0 else 'back'}"

    async def strike(self, scene: Scene) -> Recovery:
        scene.stack.clock.set(self.seconds)
        try:
            await asyncio.sleep(scene.some_seconds())
        finally:
            scene.stack.clock.set(0)
        jumped_back = time.time()
        return Recovery(await scene.stack.wait_serving() - jumped_back)
