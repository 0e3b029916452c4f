"""From times to the figures of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Quantiles, TurnTimes
from bench.scenarios import SessionTimes
from bench.workload import Lengths


@dataclass(frozen=True, slots=True)
class Round:
    """One of several passes over all scenarios, close together in time."""

    sessions: tuple[SessionTimes, ...]
    with_picture: tuple[TurnTimes, ...]
    engine_alone: tuple[TurnTimes, ...]
    """Follow-ups only."""
    tokens_per_second: Rates


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second, with one client and with ``num_clients`` at once."""

    num_clients: int
    session_one: float
    session_many: float
    picture_one: float
    picture_many: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, and the smallest and largest of them."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Figures:
    """One model, measured. Times in ms; ratios are with-picture over follow-up."""

    model: str
    dtype: str
    num_image_tokens: int
    lengths: Lengths
    num_rounds: int
    open: Quantiles
    first_ttft: Quantiles
    open_to_first: Quantiles
    follow_up_ttft: Quantiles
    follow_up_gap: Quantiles
    follow_up_tpot: Quantiles
    follow_up_cached: float
    """Share of the follow-ups' prompt tokens that was not computed again."""
    with_picture_ttft: Quantiles
    with_picture_tpot: Quantiles
    ttft_ratio: Spread
    num_clients: int
    session_rate_one: Spread
    session_rate_many: Spread
    picture_rate_one: Spread
    picture_rate_many: Spread
    rate_ratio: Spread
    """Of ``num_clients`` at once, session over with-picture."""
    engine_ttft: Quantiles
    engine_tpot: Quantiles
    overhead_ttft: Spread
    overhead_token: Spread


def compute_figures(model: str, dtype: str, lengths: Lengths, rounds: Sequence[Round]) -> Figures:
    sessions = [session for each in rounds for session in each.sessions]
    follow_ups = [turn for session in sessions for turn in session.follow_ups]
    with_picture = [turn for each in rounds for turn in each.with_picture]
    engine = [turn for each in rounds for turn in each.engine_alone]
    rates = [each.tokens_per_second for each in rounds]
    return Figures(
        model=model,
        dtype=dtype,
        num_image_tokens=sessions[0].num_image_tokens,
        lengths=lengths,
        num_rounds=len(rounds),
        open=Quantiles.of([session.opened for session in sessions]),
        first_ttft=Quantiles.of([session.turns[0].ttft for session in sessions]),
        open_to_first=Quantiles.of([session.open_to_first for session in sessions]),
        follow_up_ttft=Quantiles.of([turn.ttft for turn in follow_ups]),
        follow_up_gap=Quantiles.of([gap for turn in follow_ups for gap in turn.gaps]),
        follow_up_tpot=Quantiles.of([turn.tpot for turn in follow_ups]),
        follow_up_cached=sum(turn.num_cached for turn in follow_ups)
        / sum(turn.num_prompt for turn in follow_ups),
        with_picture_ttft=Quantiles.of([turn.ttft for turn in with_picture]),
        with_picture_tpot=Quantiles.of([turn.tpot for turn in with_picture]),
        ttft_ratio=Spread.of(
            [_ttft(each.with_picture) / _ttft(_follow_ups(each)) for each in rounds]
        ),
        num_clients=rates[0].num_clients,
        session_rate_one=Spread.of([rate.session_one for rate in rates]),
        session_rate_many=Spread.of([rate.session_many for rate in rates]),
        picture_rate_one=Spread.of([rate.picture_one for rate in rates]),
        picture_rate_many=Spread.of([rate.picture_many for rate in rates]),
        rate_ratio=Spread.of([rate.session_many / rate.picture_many for rate in rates]),
        engine_ttft=Quantiles.of([turn.ttft for turn in engine]),
        engine_tpot=Quantiles.of([turn.tpot for turn in engine]),
        overhead_ttft=Spread.of(
            [_ttft(_follow_ups(each)) - _ttft(each.engine_alone) for each in rounds]
        ),
        overhead_token=Spread.of(
            [_tpot(_follow_ups(each)) - _tpot(each.engine_alone) for each in rounds]
        ),
    )


def _follow_ups(each: Round) -> list[TurnTimes]:
    return [turn for session in each.sessions for turn in session.follow_ups]


def _ttft(turns: Sequence[TurnTimes]) -> float:
    return median(turn.ttft for turn in turns)


def _tpot(turns: Sequence[TurnTimes]) -> float:
    return median(turn.tpot for turn in turns)
