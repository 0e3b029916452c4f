"""Clients that leave, and a clock that jumps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.chaos.faults.base import NOTHING, Recovery, Scene, held


@dataclass(frozen=True, slots=True)
class CutConnections:
    """Every client closes its connection in the middle of something, again and again."""

    name: str
    manner: Literal["leave_streams", "break_off_uploads"]
    """Of ``Manners``."""
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    async def strike(self, scene: Scene) -> Recovery:
        setattr(scene.manners, self.manner, True)
        return await held(scene, lambda: setattr(scene.manners, self.manner, False))


LEAVE_STREAMS = CutConnections("cut mid-stream", "leave_streams")
BREAK_OFF_UPLOADS = CutConnections("cut mid-upload", "break_off_uploads")


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
        return await held(scene, lambda: scene.stack.clock.set(0))
