"""Beyond the knee: who is refused, and how soon, what the others get, and what comes after.

    visits open ──▶ burst: twice the knee's rate ──▶ its line ──▶ calm: half the knee's rate
    and wait        the excess is refused            is served    those who waited ask

What was taken in before the burst ended is still owed an answer: for as long as a prompt may wait,
the service is as full as it was, and refuses as it did. From then on it must be as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bench.load.arrivals import Habits, Visit, returning, schedule
from bench.load.levels import Level, level_of
from bench.load.outcomes import Limits, Run
from bench.machine import load_average

REFUSAL_MS = 100.0
KEPT_SHARE = 0.9
"""Of the knee's goodput."""
CALM_SHARE = 0.5
"""Of the knee's rate, after the burst."""
NUM_RETURNING = 20
RETURNING_APART = 0.05  # seconds
FIRST_SECONDS = NUM_RETURNING * RETURNING_APART
"""After the line, in which those who had waited ask."""


@dataclass(frozen=True, slots=True)
class Overload:
    """One burst and what came after it."""

    factor: float
    burst: Level
    first: Level
    """The first second after the line of the burst was served."""
    calm: Level
    refused_in_time: float
    """Share of the refusals that came within ``REFUSAL_MS``."""
    kept: float
    """The burst's goodput by the knee's."""

    @property
    def verdicts(self) -> dict[str, bool]:
        refusal = self.burst.refusal
        return {
            f"the excess is refused within {REFUSAL_MS:g} ms, p99": refusal is not None
            and refusal.p99 <= REFUSAL_MS,
            "each refusal has Retry-After": not self.burst.num_refusals_without_retry_after,
            "nothing ends in another way": not self.burst.num_failed,
            f"goodput stays at {KEPT_SHARE:.0%} of the knee's": self.kept >= KEPT_SHARE,
            "the first turns after it are good": self.first.good_share >= KEPT_SHARE,
            "and those after them": self.calm.good_share >= KEPT_SHARE,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """When what begins, in seconds after the start of the burst."""

    visits: tuple[Visit, ...]
    rate: float
    calm_rate: float
    burst_ends: float
    line_ends: float
    calm_ends: float


def plan_overload(
    knee_rate: float,
    factor: float,
    seconds: float,
    habits: Habits,
    random: Random,
    *,
    line_seconds: float,
) -> Plan:
    """A burst of ``factor`` times the knee's rate, and then calm for as long.

    Args:
        line_seconds: how long a prompt may wait.
    """
    rate, calm_rate = factor * knee_rate, CALM_SHARE * knee_rate
    ends, line_ends = seconds, seconds + line_seconds
    calm_ends = line_ends + seconds
    lead = 2 * habits.mean_seconds
    # Who returns opens while next to nobody else is there.
    waiting = returning(
        NUM_RETURNING,
        opens_at=-lead - NUM_RETURNING * 0.2,
        asks_from=line_ends,
        apart=RETURNING_APART,
    )
    burst = schedule(rate, habits, random, begins=-habits.mean_seconds, ends=ends)
    calm = schedule(calm_rate, habits, random, begins=ends, ends=calm_ends)
    return Plan((*waiting, *burst, *calm), rate, calm_rate, ends, line_ends, calm_ends)


def figures_of(run: Run, plan: Plan, limits: Limits, factor: float, knee: Level) -> Overload:
    first_ends = plan.line_ends + FIRST_SECONDS

    def level(rate: float, begins: float, ends: float) -> Level:
        load = load_average()
        return level_of(run, limits, rate=rate, begins=begins, ends=ends, load=load)

    burst = level(plan.rate, 0.0, plan.burst_ends)
    refusals = [
        reply.seconds
        for at, reply in (
            *((each.at, each.reply) for each in run.asked),
            *run.opened,
        )
        if 0.0 <= at < plan.burst_ends and reply is not None and reply.is_refused
    ]
    in_time = sum(1e3 * seconds <= REFUSAL_MS for seconds in refusals)
    return Overload(
        factor=factor,
        burst=burst,
        first=level(plan.calm_rate, plan.line_ends, first_ends),
        calm=level(plan.calm_rate, first_ends, plan.calm_ends),
        refused_in_time=in_time / len(refusals) if refusals else 1.0,
        kept=burst.goodput / knee.goodput,
    )
