"""What a better choice of what to evict gains: the scheduler over a modelled device and clock.

    python -m bench.eviction

Sessions come at random, each with one image and a few turns, think for exponentially distributed
times, and then are closed or just left. Their number is swept past what the device holds. The
scheduler, its caches and its policies are the product's own; the device is a clock that moves on by
what a step would take (``MACHINES``: computed, not measured on such a machine). So a run is
deterministic and says nothing of any machine, only how two policies differ on one.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.keep import RESULTS, keep, moment
from bench.modelled import (
    ANSWERED,
    ASKED,
    BLOCK_SIZE,
    MACHINES,
    SMALL_IMAGE,
    SYSTEM_TOKENS,
    Clock,
    ModelledMachine,
    ModelledRunner,
    modelled_info,
    modelled_pixels,
)
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    ImageSpan,
    PixelsNeeded,
    Prefilled,
    Retention,
    Sampling,
    TokenOut,
    Turn,
)

BIG_IMAGE = 2880
BIG_SHARE = 0.15
MEAN_TURNS = 5
MEAN_THINK_SECONDS = 20.0
CLOSED_SHARE = 0.5
"""Of the sessions that have said all they will; the others are left open until they expire."""
LIFETIME_SECONDS = 1200.0


@dataclass
class Session:
    number: int
    image_tokens: int
    turns_left: int
    is_closed_at_end: bool
    tokens: list[int]
    random: random.Random
    """Of its own, so that it does the same whatever becomes of the others."""
    num_turns: int = 0
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy made of one trace. Seconds, but for counts and shares."""

    eviction: str
    num_sessions: int
    num_follow_ups: int
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    computed_tokens: int
    """Of follow-ups, beyond what was new in them."""
    encoded_seconds: float
    """Of running images through the vision tower again."""
    copied_seconds: float
    device_share: float
    """Of the tokens that follow-ups had said before: found on the device."""
    host_share: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """One point of it: both policies on the same trace."""

    num_open: int
    host_sessions: int
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True)
class Report:
    taken_at: str
    machine: str
    seed: int
    device_sessions: int
    sweeps: list[Sweep]


class Trace:
    """One run: sessions at random, one policy."""

    def __init__(
        self,
        machine: ModelledMachine,
        eviction: Eviction,
        *,
        num_sessions: int,
        num_open: int,
        device_sessions: int,
        host_sessions: int,
        seed: int,
    ) -> None:
        self._clock = Clock()
        self._seed = seed
        self._eviction = eviction
        self._num_sessions = num_sessions
        tokens = SYSTEM_TOKENS + SMALL_IMAGE + MEAN_TURNS * (ASKED + ANSWERED)
        blocks = -(-tokens // BLOCK_SIZE)
        info = modelled_info(
            machine, num_blocks=device_sessions * blocks, num_host_blocks=host_sessions * blocks
        )
        self._runner = ModelledRunner(machine, self._clock, info)
        limits = EngineLimits(
            eviction=eviction,
            feature_bytes=device_sessions * SMALL_IMAGE * machine.feature_bytes,
            pixel_bytes=1 << 40,
        )
        self._engine = Engine(self._runner, limits, monotonic=self._clock, wall=self._clock)
        self._due: list[tuple[float, int, Session]] = []
        self._by_turn: dict[str, Session] = {}
        self._num_due = 0
        self._ttfts: list[float] = []
        self._known = self._found = 0
        # A session lives for its turns and the thoughts between them; as many come as leave.
        gap = MEAN_TURNS * MEAN_THINK_SECONDS / num_open
        at, arrivals = 0.0, random.Random(seed)
        for number in range(num_sessions):
            at += arrivals.expovariate(1 / gap)
            self._put(at, self._new_session(number))

    def run(self) -> Outcome:
        """Until every session has said all it will."""
        while self._due or self._by_turn:
            while self._due and self._due[0][0] <= self._clock.now:
                self._ask(heapq.heappop(self._due)[2])
            if self._engine.has_work:
                self._hear(self._engine.step())
            elif self._due:
                self._clock.now = max(self._clock.now, self._due[0][0])
        self._engine.check_integrity()
        return self._outcome()

    def _outcome(self) -> Outcome:
        stats = self._engine.stats()
        cuts = quantiles(self._ttfts, n=100, method="inclusive")
        known = max(1, self._known)
        return Outcome(
            eviction=str(self._eviction),
            num_sessions=self._num_sessions,
            num_follow_ups=len(self._ttfts),
            ttft_mean=mean(self._ttfts),
            ttft_p50=cuts[49],
            ttft_p99=cuts[98],
            computed_tokens=self._known - self._found,
            encoded_seconds=self._runner.encoded_seconds,
            copied_seconds=self._runner.copied_seconds,
            device_share=(self._found - stats.host_tokens_total) / known,
            host_share=stats.host_tokens_total / known,
        )

    def _new_session(self, number: int) -> Session:
        chance = random.Random(f"{self._seed}/{number}")
        image = BIG_IMAGE if chance.random() < BIG_SHARE else SMALL_IMAGE
        return Session(
            number,
            image,
            turns_left=1 + min(40, int(chance.expovariate(1 / (MEAN_TURNS - 1)))),
            is_closed_at_end=chance.random() < CLOSED_SHARE,
            tokens=[*range(10, 10 + SYSTEM_TOKENS), *[1] * image],
            random=chance,
        )

    def _put(self, at: float, session: Session) -> None:
        self._num_due += 1
        heapq.heappush(self._due, (at, self._num_due, session))

    def _ask(self, session: Session) -> None:
        if not session.turns_left:
            self._engine.release(str(session.number))
            return
        session.asked_at = self._clock.now
        session.tokens += [100 + session.number, *range(200, 199 + ASKED)]
        turn = Turn(
            turn_id=f"{session.number}/{session.num_turns}",
            tokens=tuple(session.tokens),
            images=(ImageSpan(f"image-{session.number}", SYSTEM_TOKENS, session.image_tokens),),
            sampling=Sampling(max_new_tokens=ANSWERED),
            retention=Retention(str(session.number), self._clock.now + LIFETIME_SECONDS),
        )
        self._by_turn[turn.turn_id] = session
        self._runner.expect(turn)
        self._hear(self._engine.add(turn))

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            session = self._by_turn[event.turn_id]
            match event:
                case PixelsNeeded():
                    self._engine.put_pixels(modelled_pixels(event.digest))
                case Prefilled() if session.num_turns:
                    self._known += event.prompt_tokens - ASKED
                    self._found += event.cached_tokens
                    self._ttfts.append(self._clock.now - session.asked_at)
                case TokenOut():
                    session.tokens.append(event.token)
                case Finished():
                    self._end_turn(session, event.turn_id)
                case Failed():
                    raise RuntimeError(event.message)

    def _end_turn(self, session: Session, turn_id: str) -> None:
        del self._by_turn[turn_id]
        session.num_turns += 1
        session.turns_left -= 1
        if session.turns_left or session.is_closed_at_end:
            think = session.random.expovariate(1 / MEAN_THINK_SECONDS)
            self._put(self._clock.now + think, session)


def compare(
    machine: str,
    *,
    num_sessions: int,
    num_open: int,
    device_sessions: int,
    host_sessions: int,
    seed: int,
) -> Iterator[Outcome]:
    """The same trace under each policy."""
    for eviction in (Eviction.LRU, Eviction.COST):
        trace = Trace(
            MACHINES[machine],
            eviction,
            num_sessions=num_sessions,
            num_open=num_open,
            device_sessions=device_sessions,
            host_sessions=host_sessions,
            seed=seed,
        )
        yield trace.run()


def main(
    machine: Annotated[str, typer.Option(help=f"Any of {', '.join(MACHINES)}.")] = "h200-7b",
    *,
    sessions: Annotated[int, typer.Option(min=10, help="In all.")] = 400,
    device: Annotated[int, typer.Option(min=1, help="Sessions that the device holds.")] = 20,
    seed: int = 1,
    folder: Annotated[Path, typer.Option(help="Where the run is kept.")] = RESULTS,
) -> None:
    """Sweep the number of open sessions past what device and host hold; print both policies."""
    table = Table(box=None, pad_edge=False)
    headings = ("open", "host holds", "policy", "TTFT mean ms", "p50", "p99")
    for heading in (*headings, "k tokens again", "encoded s", "copied s", "device", "host"):
        table.add_column(heading, justify="right")
    taken_at, reports = moment(), []
    for host in (0, 2 * device):
        for num_open in (device // 2, device, 2 * device, 4 * device):
            outcomes = list(
                compare(
                    machine,
                    num_sessions=sessions,
                    num_open=num_open,
                    device_sessions=device,
                    host_sessions=host,
                    seed=seed,
                )
            )
            reports.append(Sweep(num_open, host, outcomes))
            for one in outcomes:
                table.add_row(
                    *(str(num_open), str(host), one.eviction),
                    *(f"{1e3 * s:.1f}" for s in (one.ttft_mean, one.ttft_p50, one.ttft_p99)),
                    f"{one.computed_tokens / 1000:.1f}",
                    *(f"{s:.2f}" for s in (one.encoded_seconds, one.copied_seconds)),
                    *(f"{share:.1%}" for share in (one.device_share, one.host_share)),
                )
    console = Console()
    console.print(table)
    kept = keep("eviction", Report(taken_at, machine, seed, device, reports), folder)
    console.print(f"kept as {kept.name}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
