"""The engine: turns in, events out, one step at a time.

    client ──Turn──▶ add ─▶ scheduler ─▶ plan ─▶ runner (the device) ─▶ apply ─▶ events ──▶ client

It knows no sessions, no text, no threads and no processes: ``loop.py`` drives it, ``local.py`` and
``process.py`` decide where that happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vlm_sessions.engine.interface import Runner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.scheduler import Scheduler
from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    ImageSpan,
    PixelImage,
    StepResult,
    Turn,
)


class Engine:
    """One runner and the scheduler that feeds it. Not thread-safe.

    Args:
        monotonic: seconds, for durations.
        wall: seconds since the epoch, for retentions.
    """

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.runner = runner
        self._monotonic = monotonic
        self.scheduler = Scheduler(
            runner.info, limits, runner.feature_bytes_per_token, monotonic=monotonic, wall=wall
        )

    @property
    def info(self) -> EngineInfo:
        return self.runner.info

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would do something; if not, ``add`` or ``put_pixels`` change that."""
        return self.scheduler.has_work

    def step(self) -> list[Event]:
        """Compute one batch.

        Raises:
            Exception: whatever the runner raised. Its caches are in an unknown state then, so this
                engine is of no further use.
        """
        plan = self.scheduler.plan()  # which tokens of which turns run now
        started = self._monotonic()
        result = self.runner.execute(plan) if plan else StepResult()  # the only door to the device
        seconds = self._monotonic() - started
        return self.scheduler.apply(plan, result, seconds)  # who got what, who is finished

    def add(self, turn: Turn) -> list[Event]:
        """Take in a turn; it is computed by the next steps.

        Returns ``PixelsNeeded`` for images it already knows to be missing, or ``Failed`` when the
        turn can never be computed.
        """
        return self.scheduler.add(turn)

    def cancel(self, turn_id: str) -> list[Event]:
        """End a turn; returns its ``Finished(CANCELLED)``, nothing for an unknown id."""
        return self.scheduler.cancel(turn_id)

    def put_pixels(self, image: PixelImage) -> None:
        """Take in an image that was asked for; wakes the turns that wait for it."""
        self.scheduler.put_pixels(image)

    def release(self, key: str) -> None:
        """Give up the retention under ``key``. Its blocks become the first to be evicted."""
        self.scheduler.release(key)

    def locate(
        self, tokens: Sequence[int], images: Sequence[ImageSpan], salt: str = ""
    ) -> CacheLocation:
        """Where a prefix is cached; looking changes nothing."""
        return self.scheduler.locate(tokens, images, salt)

    def stats(self) -> EngineStats:
        return self.scheduler.stats()

    def clear(self) -> None:
        """Drop every cache that no running turn uses."""
        self.scheduler.clear()

    def check_integrity(self) -> None:
        """Assert every invariant of the accounting."""
        self.scheduler.check_integrity()
