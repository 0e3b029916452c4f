"""Two faults at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.chaos.faults.base import Fault, Recovery, Scene


@dataclass(frozen=True, slots=True)
class Both:
    """Both strike at once. Judged is the slower recovery of those that have a limit."""

    first: Fault
    second: Fault

    @property
    def name(self) -> str:
        return f"{self.first.name} + {self.second.name}"

    @property
    def allowed(self) -> frozenset[str]:
        return self.first.allowed | self.second.allowed

    @property
    def cost(self) -> float:
        return max(self.first.cost, self.second.cost)

    @property
    def limit(self) -> float | None:
        limits = [each.limit for each in (self.first, self.second) if each.limit is not None]
        return max(limits, default=None)

    @property
    def lasts(self) -> bool:
        return self.first.lasts or self.second.lasts

    async def strike(self, scene: Scene) -> Recovery:
        recoveries = await asyncio.gather(self.first.strike(scene), self.second.strike(scene))
        limited = [
            recovery
            for recovery, fault in zip(recoveries, (self.first, self.second), strict=True)
            if fault.limit is not None
        ]
        seconds = max(recovery.seconds for recovery in recoveries)
        judged = max(recovery.judged_seconds for recovery in limited or recoveries)
        return Recovery(seconds, load_seconds=seconds - judged)
