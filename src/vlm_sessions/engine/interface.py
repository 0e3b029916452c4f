"""The two contracts around the engine: what a client may call, and what a runner must do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    ImageSpan,
    PixelImage,
    Plan,
    StepResult,
    Turn,
)

PixelSource = Callable[[str], Awaitable[PixelImage]]
"""Gives the pixels of a digest when the engine has neither features nor pixels of it left. The
session layer answers from its record, so the engine may drop anything at any time."""


class AsyncEngine(Protocol):
    """The engine as the session layer sees it, whatever stands behind it and wherever it runs.

    All methods are safe to call while the engine is down; those that need it raise
    ``EngineUnavailable``.
    """

    @property
    def ready(self) -> bool:
        """Whether a turn submitted now would be computed."""
        ...

    async def start(self) -> EngineInfo:
        """Load the model. Returns once turns can be computed.

        Raises:
            EngineUnavailable: the model could not be loaded; the message says why.
        """
        ...

    async def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until turns can be computed, for instance while the engine is being replaced.

        Raises:
            EngineUnavailable: they cannot after this time.
        """
        ...

    def submit(self, turn: Turn, pixels: PixelSource) -> AsyncIterator[Event]:
        """Compute one turn; yields ``Prefilled``, ``TokenOut`` …, and ends with ``Finished``.

        ``PixelsNeeded`` is answered from ``pixels`` and not passed on. Leaving the iterator early
        cancels the turn. When the engine reports ``Failed``, the matching error is raised.

        Raises:
            EngineUnavailable: not started, or being replaced.
            EngineLost: the engine died while this turn was in flight.
            ContextOverflow: the turn can never fit.
            VlmError: whatever ``pixels`` raised.
        """
        ...

    async def cancel(self, turn_id: str) -> None:
        """End a turn soon, with ``Finished(CANCELLED)``. Unknown ids are ignored."""
        ...

    async def release(self, key: str) -> None:
        """Give up the retention under ``key``. Its blocks become the first to be evicted."""
        ...

    async def locate(
        self, tokens: Sequence[int], images: Sequence[ImageSpan], *, salt: str = ""
    ) -> CacheLocation:
        """Where this prefix is cached for turns of this salt. While the engine is down: nowhere."""
        ...

    async def stats(self) -> EngineStats:
        """Figures for /metrics. While the engine is down: zeros, but for ``restarts_total``."""
        ...

    async def clear(self) -> None:
        """Drop every cache that no running turn uses. Costs time later, never correctness."""
        ...

    async def close(self) -> None:
        """End the engine and what it started. Turns in flight fail with ``EngineUnavailable``."""
        ...


class Runner(Protocol):
    """The only door to the device. One caller, one step at a time."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def feature_bytes_per_token(self) -> int:
        """Bytes of the features of one image token."""
        ...

    def execute(self, plan: Plan) -> StepResult:
        """Do one step's work.

        Raises:
            Exception: the device failed; nothing of the step counts and the caller must assume
                that all KV and features are lost.
        """
        ...
