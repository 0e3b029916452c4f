"""The scheduler: turns in, plans out, results in, events out. Plain accounting: no tensors, no
threads, no I/O.

    add ─▶ turns.py ─▶ planner.py ─▶ Plan ─▶ (the runner) ─▶ StepResult ─▶ reports.py ─▶ events
           who waits,  what is                                             who got what,
           who runs    computed now                                        who is finished

All of them share the accounts of ``caches.py``: what is kept, where, and for whom.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from vlm_sessions.engine.caches import Caches
from vlm_sessions.engine.costs import Costs
from vlm_sessions.engine.figures import engine_stats
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.pacing import Pacer
from vlm_sessions.engine.planner import Planner
from vlm_sessions.engine.prices import Prices
from vlm_sessions.engine.reports import Reports
from vlm_sessions.engine.sequence import Sequence, check_turn
from vlm_sessions.engine.turns import Turns
from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    ImageSpan,
    PixelImage,
    Plan,
    StepResult,
    Turn,
)
from vlm_sessions.errors import ContextOverflow, Internal


class Scheduler:
    """Continuous batching over one runner's block pool. Not thread-safe.

    ``plan`` and ``apply`` alternate; the other methods may be called between an ``apply`` and the
    next ``plan``, never between a ``plan`` and its ``apply``.

    Args:
        monotonic: seconds, for durations.
        wall: seconds since the epoch, for retentions.
    """

    def __init__(
        self,
        info: EngineInfo,
        limits: EngineLimits,
        feature_bytes_per_token: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._costs = Costs()
        self.caches = Caches(
            info, limits, feature_bytes_per_token, prices=Prices(self._costs), wall=wall
        )
        self._monotonic = monotonic
        self._max_context = min(info.max_context, info.num_blocks * info.block_size)
        self._turns = Turns(self.caches, limits.num_slots)
        self._reports = Reports(
            self.caches, self._turns, max_context=self._max_context, monotonic=monotonic
        )
        pacer = Pacer(limits, self._costs)
        self._planner = Planner(self.caches, self._turns, self._reports, limits, pacer)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something. Turns that lack pixels are woken by ``put_pixels``."""
        return bool(
            self._turns.running
            or (self._turns.waiting and self._turns.has_free_slot)
            or self.caches.images.encoding.has_work
            or self.caches.images.features.has_moves
        )

    def plan(self) -> Plan:
        """Decide what the next step computes. Empty when nothing can be."""
        return self._planner.plan()

    def apply(self, plan: Plan, result: StepResult, seconds: float) -> list[Event]:
        """Account for a plan that was carried out in so many seconds; returns what happened, in
        order."""
        encoding = self.caches.images.encoding
        self._costs.note_plan(plan, seconds, beside_encoding=encoding.is_running)
        if result.blocks_loaded:
            num_bytes = result.blocks_loaded * self.caches.pool.block_bytes
            self._costs.note_copy(result.load_seconds, num_bytes=num_bytes)
        for image in result.encoded:
            num_tokens = self._turns.take_features(image.digest)
            self._costs.note_encode(image.seconds, num_tokens=num_tokens)
        return self._reports.apply(plan, result)

    # --- between steps --------------------------------------------------------------------------

    def add(self, turn: Turn) -> list[Event]:
        """Put a turn in line. Says at once what it lacks, or that it can never be computed."""
        try:
            check_turn(turn, self._turns.ids)
        except ValueError as exc:
            return [Failed(turn.turn_id, Internal.code, f"The engine refused the turn: {exc}.")]
        num_tokens = len(turn.tokens) + min(1, turn.sampling.max_new_tokens)
        if num_tokens > self._max_context:
            return [Failed(turn.turn_id, ContextOverflow.code, self._too_long(num_tokens))]
        sequence = Sequence(
            turn,
            order=self._turns.enter(turn.client or turn.turn_id),
            block_size=self.caches.pool.block_size,
            arrived_at=self._monotonic(),
        )
        return [*self._turns.add(sequence)]

    def cancel(self, turn_id: str) -> list[Event]:
        """End a turn in whatever state it is. Unknown ids are ignored."""
        sequence = self._turns.get(turn_id)
        if sequence is None:
            return []
        self._turns.remove(sequence)
        return [Finished(turn_id, FinishReason.CANCELLED)]

    def put_pixels(self, image: PixelImage) -> None:
        """Take in an image that was asked for. One that nobody needs stays while there is room."""
        self._turns.take_pixels(image)

    def release(self, key: str) -> None:
        self.caches.release(key)

    def locate(
        self, tokens: SequenceOf[int], images: SequenceOf[ImageSpan], salt: str = ""
    ) -> CacheLocation:
        """Where a prefix is cached. Changes nothing, not even what was used last."""
        return self.caches.locate(tokens, images, salt)

    def clear(self) -> None:
        """Drop every cache that no turn uses."""
        self.caches.clear()

    def stats(self) -> EngineStats:
        """Figures of this moment, and counts since the start."""
        return engine_stats(self.caches, self._turns, self._reports)

    def check_integrity(self) -> None:
        """Assert every invariant of the engine's accounting. For tests and idle times."""
        self.caches.pool.check_integrity()
        self._turns.check_integrity()

    def _too_long(self, num_tokens: int) -> str:
        return (
            f"The conversation needs at least {num_tokens} tokens and the model's context holds "
            f"{self._max_context}. Shorten the prompt, send fewer or smaller images, or open a new "
            "session."
        )
