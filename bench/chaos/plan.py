"""Which fault when: from a seed, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.chaos.faults.base import Fault

CHECK_SECONDS = 0.5
"""For looking at every session after a fault, about."""
MAX_CALM = 2.5
MAX_HOLD = 4.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault, after so many seconds of undisturbed traffic."""

    calm: float
    fault: Fault


@dataclass(frozen=True, slots=True)
class Plan:
    """``holds``: seconds that faults which last may last."""

    blows: tuple[Blow, ...]
    holds: float


def make_plan(faults: Sequence[Fault], pairs: Sequence[Fault], seconds: float, seed: int) -> Plan:
    """Every kind once, as far as the time goes, then every kind again, each time in another order.
    Pairs come last in each round.

    Short runs have shorter calms and shorter faults, so that many kinds fit. What would take more
    than a fifth of the time does not occur, and what takes more than a twentieth occurs once.
    """
    rng = Random(f"plan {seed}")
    holds = min(MAX_HOLD, max(0.7, seconds / 100))
    calms = min(MAX_CALM, seconds / 300)
    blows: list[Blow] = []
    left = seconds
    while True:
        num_before = len(blows)
        for fault in (*rng.sample(faults, len(faults)), *rng.sample(pairs, len(pairs))):
            if fault.cost > seconds / (20 if fault in [blow.fault for blow in blows] else 5):
                continue
            calm = rng.uniform(0.5, 1.5) * calms
            cost = calm + fault.cost + (holds if fault.lasts else 0.0) + CHECK_SECONDS
            if cost <= left:
                left -= cost
                blows.append(Blow(calm, fault))
        if len(blows) == num_before:
            return Plan(tuple(blows), holds)
