"""Times as a client sees them. Durations are in milliseconds.

TTFT: from sending the prompt to the first piece of text. ITL: the raw gaps between pieces. TPOT:
(end − first piece) / (tokens − 1).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles

from vlm_sessions.client import AsyncAnswerStream

Clock = Callable[[], float]
"""Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """One answered prompt."""

    ttft: float
    gaps: tuple[float, ...]
    tpot: float
    num_tokens: int
    num_cached: int
    num_prompt: int


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of ``num_samples`` values."""

    num_samples: int
    p50: float
    p95: float
    p99: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """``values`` must not be empty; with fewer than 100 of them p99 lies at the largest."""
        cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
        return cls(len(values), median(values), cuts[94], cuts[98], min(values), max(values))


async def time_pieces(
    pieces: AsyncIterator[str], started: float, clock: Clock = time.perf_counter
) -> tuple[list[float], float]:
    """When each piece came and when the stream ended, in ms after ``started``."""
    arrivals = [(clock() - started) * 1e3 async for _ in pieces]
    return arrivals, (clock() - started) * 1e3


async def time_stream(stream: AsyncAnswerStream, clock: Clock = time.perf_counter) -> TurnTimes:
    """Send a prompt and take its answer."""
    arrivals, end = await time_pieces(stream, clock(), clock)
    usage = stream.answer.usage
    return turn_times(
        arrivals,
        end,
        num_tokens=usage.completion_tokens,
        num_cached=usage.cached_tokens,
        num_prompt=usage.prompt_tokens,
    )


def turn_times(
    arrivals: Sequence[float], end: float, *, num_tokens: int, num_cached: int, num_prompt: int
) -> TurnTimes:
    """From when each piece came, and the end, in ms."""
    assert arrivals, "an answer of fixed length has at least one piece"
    return TurnTimes(
        ttft=arrivals[0],
        gaps=tuple(later - earlier for earlier, later in pairwise(arrivals)),
        tpot=(end - arrivals[0]) / max(num_tokens - 1, 1),
        num_tokens=num_tokens,
        num_cached=num_cached,
        num_prompt=num_prompt,
    )
