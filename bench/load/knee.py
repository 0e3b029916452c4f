"""At which rate it ends: the highest at which nearly all turns are still good."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.load.levels import Level

GOOD_SHARE = 0.95
"""Of what is due, for a rate to count as held."""
NUM_TRIES = 2
"""Of a rate, before it counts as not held: others use the machine too."""

Measure = Callable[[float], Awaitable[Level]]
"""Measures one rate."""


@dataclass(frozen=True, slots=True)
class Knee:
    """``levels``: everything that was measured, in order."""

    level: Level | None
    """The highest rate that was held; ``None``: not even the first was."""
    levels: tuple[Level, ...]
    is_found: bool
    """Whether a higher rate was measured that was not held."""


async def find_knee(
    measure: Measure, *, first_rate: float, growth: float, max_rate: float, num_halvings: int
) -> Knee:
    """Raise the rate by ``growth`` until it is not held, then halve the last step, on a logarithmic
    scale, so often."""
    levels: list[Level] = []
    held: Level | None = None

    async def holds(rate: float) -> bool:
        nonlocal held
        for _ in range(NUM_TRIES):
            levels.append(await measure(rate))
            if levels[-1].good_share >= GOOD_SHARE:
                held = levels[-1]
                return True
        return False

    low, high = 0.0, first_rate
    while high <= max_rate and await holds(high):
        low, high = high, high * growth
    is_found = high <= max_rate
    if is_found and low:
        for _ in range(num_halvings):
            middle = math.sqrt(low * high)
            if await holds(middle):
                low = middle
            else:
                high = middle
    return Knee(held, tuple(levels), is_found)
