"""Whether a figure grows: a line through it that outliers do not bend.

The slope is Theil's and Sen's: the median of the slopes between all pairs of samples. Half of all
samples would have to be wrong to move it where it should not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median


@dataclass(frozen=True, slots=True)
class Margin:
    """How much a figure may grow and still count as flat: the larger of the two."""

    absolute: float
    share: float = 0.0
    """Of its median."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one figure. It may sink by any amount."""

    median: float
    growth: float
    """From the first sample to the last, by the slope."""
    margin: float

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.margin


def trend_of(times: Sequence[float], values: Sequence[float], margin: Margin) -> Trend:
    """At least two samples, in order of time."""
    points = list(zip(times, values, strict=True))
    slope = median((y - b) / (x - a) for (a, b), (x, y) in combinations(points, 2))
    middle = median(values)
    return Trend(
        median=middle,
        growth=slope * (times[-1] - times[0]),
        margin=max(margin.absolute, margin.share * middle),
    )
