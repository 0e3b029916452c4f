"""Figures of one stretch of time in a run: what was due in it, and what of that was good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.outcomes import Limits, Run
from bench.measure import Quantiles


@dataclass(frozen=True, slots=True)
class Level:
    """Times are in milliseconds; ``None``: there was nothing to measure."""

    rate: float
    """Questions a second that were to come, on average."""
    seconds: float
    num_due: int
    num_good: int
    """Answered within the limits."""
    num_answered: int
    num_refused: int
    """Questions that got 429, or whose session did when it was to be opened."""
    num_failed: int
    """All others."""
    goodput: float
    """Good turns a second."""
    ttft: Quantiles | None
    gap: Quantiles | None
    """Mean gap of an answer."""
    num_openings: int
    num_openings_refused: int
    opening: Quantiles | None
    refusal: Quantiles | None
    """From sending a question or a picture to the 429."""
    num_refusals_without_retry_after: int
    lateness: Quantiles | None
    """Of the generator itself, with each request."""
    load: float
    """Load average of the last minute, when it ended."""

    @property
    def good_share(self) -> float:
        """Of what was due."""
        return self.num_good / self.num_due if self.num_due else 0.0


def level_of(
    run: Run, limits: Limits, *, rate: float, begins: float, ends: float, load: float
) -> Level:
    """What was due from ``begins`` on and before ``ends``, in seconds after the run's start."""
    asked = [each for each in run.asked if begins <= each.at < ends]
    opened = [reply for at, reply in run.opened if begins <= at < ends]
    replies = [each.reply for each in asked if each.reply is not None]
    refusals = [reply for reply in (*replies, *opened) if reply.is_refused]
    answered = [each for each in asked if each.is_answered]
    num_good = sum(each.meets(limits) for each in asked)
    num_refused = sum(each.is_refused for each in asked)
    return Level(
        rate=rate,
        seconds=ends - begins,
        num_due=len(asked),
        num_good=num_good,
        num_answered=len(answered),
        num_refused=num_refused,
        num_failed=len(asked) - len(answered) - num_refused,
        goodput=num_good / (ends - begins),
        ttft=_ms([each.ttft for each in answered if each.ttft is not None]),
        gap=_ms([each.gap for each in answered]),
        num_openings=len(opened),
        num_openings_refused=sum(reply.is_refused for reply in opened),
        opening=_ms([reply.seconds for reply in opened if reply.status == 200]),
        refusal=_ms([reply.seconds for reply in refusals]),
        num_refusals_without_retry_after=sum(reply.retry_after is None for reply in refusals),
        lateness=_ms([late for at, late in run.lateness if begins <= at < ends]),
        load=load,
    )


def _ms(seconds: Sequence[float]) -> Quantiles | None:
    return Quantiles.of([1e3 * each for each in seconds]) if seconds else None
