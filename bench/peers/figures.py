"""From the rounds to medians, and to the ratios that are goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.figures import Spread
from bench.peers.catalog import EVERYTHING, KV, OPENVINO, OURS, PIXELS, VLLM, PeerKind
from bench.peers.rounds import Effort, Measured, RoundTimes

Figure = Literal["first_ttft", "follow_up_ttft", "tpot", "rate", "decode_rate"]


@dataclass(frozen=True, slots=True)
class Spreads:
    """Over the rounds."""

    wall: Spread
    cpu: Spread

    @classmethod
    def of(cls, values: Sequence[Measured]) -> Spreads:
        return cls(Spread.of([v.wall for v in values]), Spread.of([v.cpu for v in values]))


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """One peer. Times in ms, rates in tokens a second."""

    name: str
    versions: dict[str, str]
    first_ttft: Spreads
    follow_up_ttft: Spreads
    tpot: Spreads
    rate: Spreads | None
    decode_rate: Spreads | None
    num_prompt: int
    num_computed: int | None
    same_answers: float
    """Share of the rounds' first answers that are ours, token for token."""
    note: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer without figures, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """One over the other within each round."""

    name: str
    spreads: Spreads
    goal: str
    """Empty: none was set."""
    met: bool | None
    """By the median of the processes' own times; None: no goal."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All peers in one dtype."""

    shape: str
    dtype: str
    num_image_tokens: int
    effort: Effort
    num_rounds: int
    peers: tuple[PeerFigures, ...]
    absent: tuple[Absent, ...]
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    over: tuple[str, Figure]
    under: tuple[str, Figure]
    at_least: float | None = None
    at_most: float | None = None

    def goal(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    def met(self, value: float) -> bool | None:
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


def _beside(
    peer: PeerKind,
    *,
    follow_up: float | None = None,
    tpot: float | None = None,
    rate: float | None = None,
) -> tuple[_Wanted, ...]:
    """Ours over a peer's, and the goals: times at most, the rate at least."""
    ours, theirs, title = OURS.name, peer.name, f"ours / {peer.name}"
    return (
        _Wanted(f"{title}, first TTFT", (ours, "first_ttft"), (theirs, "first_ttft")),
        _Wanted(
            f"{title}, follow-up TTFT",
            (ours, "follow_up_ttft"),
            (theirs, "follow_up_ttft"),
            at_most=follow_up,
        ),
        _Wanted(f"{title}, TPOT", (ours, "tpot"), (theirs, "tpot"), at_most=tpot),
        _Wanted(f"{title}, tokens/s at once", (ours, "rate"), (theirs, "rate"), at_least=rate),
        _Wanted(f"{title}, … decoding", (ours, "decode_rate"), (theirs, "decode_rate")),
    )


_OUR_FOLLOW_UP: tuple[str, Figure] = (OURS.name, "follow_up_ttft")
WANTED = (
    _Wanted(
        "everything each time / our follow-up, TTFT",
        (EVERYTHING.name, "follow_up_ttft"),
        _OUR_FOLLOW_UP,
        at_least=26,
    ),
    _Wanted(
        "the AWS sample's way / our follow-up, TTFT",
        (PIXELS.name, "follow_up_ttft"),
        _OUR_FOLLOW_UP,
        at_least=26,
    ),
    _Wanted("our first / our follow-up, TTFT", (OURS.name, "first_ttft"), _OUR_FOLLOW_UP),
    *_beside(VLLM, follow_up=1.0, tpot=0.75, rate=1.2),
    *_beside(OPENVINO),
    *_beside(KV),
)
"""What is compared, and the goals that were set."""


def peer_figures(
    kind: PeerKind,
    versions: dict[str, str],
    rounds: Sequence[RoundTimes],
    ours: Sequence[RoundTimes],
) -> PeerFigures:
    rates = [each.rate for each in rounds if each.rate is not None]
    decode_rates = [each.decode_rate for each in rounds if each.decode_rate is not None]
    same = [a.first_answer == b.first_answer for a, b in zip(rounds, ours, strict=True)]
    return PeerFigures(
        name=kind.name,
        versions=versions,
        first_ttft=Spreads.of([each.first_ttft for each in rounds]),
        follow_up_ttft=Spreads.of([each.follow_up_ttft for each in rounds]),
        tpot=Spreads.of([each.tpot for each in rounds]),
        rate=Spreads.of(rates) if rates else None,
        decode_rate=Spreads.of(decode_rates) if decode_rates else None,
        num_prompt=rounds[-1].num_prompt,
        num_computed=rounds[-1].num_computed,
        same_answers=sum(same) / len(same),
        note=kind.note,
    )


def ratios(rounds: Mapping[str, Sequence[RoundTimes]]) -> tuple[Ratio, ...]:
    """Of the peers that have rounds. Ratios of what nobody measured are left out."""
    found = []
    for wanted in WANTED:
        over, under = (_values(rounds, *side) for side in (wanted.over, wanted.under))
        if not over or not under:
            continue
        spreads = Spreads.of(
            [Measured(a.wall / b.wall, a.cpu / b.cpu) for a, b in zip(over, under, strict=True)]
        )
        met = wanted.met(spreads.cpu.median)
        found.append(Ratio(wanted.name, spreads, wanted.goal(), met))
    return tuple(found)


def _values(
    rounds: Mapping[str, Sequence[RoundTimes]], name: str, figure: Figure
) -> list[Measured]:
    values = [getattr(each, figure) for each in rounds.get(name, ())]
    return [value for value in values if value is not None]
