"""What the engine does beside computing: the scheduler, the caches and the events of a step.

    python -m bench.bookkeeping

Many sessions, each with an image and a conversation that is cached, of which some are answered at a
time; when one has its answer, another one is asked. The engine is the product's own. Its device is
modelled: it computes nothing, and the time that it takes for that is left out. What is left is
everything else from one step to the next, new turns being added among it, in processor time.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.keep import RESULTS
from bench.machine import Conditions, conditions, load_average
from bench.measure import Quantiles
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
from bench.program import Out, Seed, choose_seed, keep_run
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import (
    EngineInfo,
    Event,
    Failed,
    Finished,
    ImageSpan,
    PixelsNeeded,
    Plan,
    Prefilled,
    Retention,
    Sampling,
    StepResult,
    TokenOut,
    Turn,
)

MAX_TURNS = 20
"""Of a session in one run: the pool has room for them."""
NUM_WARM_STEPS = 100


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """Milliseconds of one step, without the device's."""

    seed: int
    num_sessions: int
    num_running: int
    decoding: Quantiles
    """Steps in which all that run get a token and nothing else happens."""
    changing: Quantiles
    """Steps before which a turn was added, or in which one ended."""
    num_turns: int
    """That were answered in the steps that count."""
    cached_share: float
    """Of the tokens that their sessions had said before."""


class Stopwatch:
    """Processor time between ``go`` and ``stop``, in ms, added up until it is taken."""

    def __init__(self) -> None:
        self._ms = 0.0

    def go(self) -> None:
        self._ms -= time.thread_time() * 1e3

    def stop(self) -> None:
        self._ms += time.thread_time() * 1e3

    def take(self) -> float:
        taken, self._ms = self._ms, 0.0
        return taken


class UntimedRunner(ModelledRunner):
    """Stops the watch while it stands for the device."""

    def __init__(
        self, machine: ModelledMachine, clock: Clock, info: EngineInfo, watch: Stopwatch
    ) -> None:
        super().__init__(machine, clock, info)
        self._watch = watch

    def execute(self, plan: Plan) -> StepResult:
        self._watch.stop()
        result = super().execute(plan)
        self._watch.go()
        return result


class Crowd:
    """Sessions, of which ``num_running`` are answered at any time."""

    def __init__(self, num_sessions: int, num_running: int, seed: int) -> None:
        clock = Clock()
        machine = MACHINES["h200-7b"]
        most_tokens = SYSTEM_TOKENS + SMALL_IMAGE + MAX_TURNS * (ASKED + ANSWERED)
        info = modelled_info(machine, num_blocks=num_sessions * -(-most_tokens // BLOCK_SIZE))
        limits = EngineLimits(
            max_running=num_running,
            feature_bytes=num_sessions * SMALL_IMAGE * machine.feature_bytes,
        )
        self.watch = Stopwatch()
        self._runner = UntimedRunner(machine, clock, info, self.watch)
        self._engine = Engine(self._runner, limits, monotonic=clock, wall=clock)
        self._random = random.Random(seed)
        self._said = [
            [number, *range(10, 9 + SYSTEM_TOKENS), *[1] * SMALL_IMAGE]
            for number in range(num_sessions)
        ]
        self._num_turns = [0] * num_sessions
        self._silent = set(range(num_sessions))
        self.known = self.found = self.num_answered = 0

    def open(self, number: int) -> None:
        """The session's first turn, on its own."""
        self.ask(number)
        while self._engine.has_work:
            self.step()

    def ask_anyone(self) -> None:
        self.ask(self._random.choice(sorted(self._silent)))

    def ask(self, number: int) -> None:
        said = self._said[number]
        self.known += len(said) if self._num_turns[number] else 0
        said += self._random.choices(range(200, 1000), k=ASKED)
        self._num_turns[number] += 1
        self._silent.remove(number)
        turn = Turn(
            turn_id=str(number),
            tokens=tuple(said),
            images=(ImageSpan(f"image-{number}", SYSTEM_TOKENS, SMALL_IMAGE),),
            # Not all of them end in the same step.
            sampling=Sampling(max_new_tokens=self._random.randint(1, 2 * ANSWERED - 1)),
            retention=Retention(str(number), 1e9),
        )
        self._runner.expect(turn)
        self.watch.go()
        events = self._engine.add(turn)
        self.watch.stop()
        self._hear(events)

    def step(self) -> None:
        self.watch.go()
        events = self._engine.step()
        self.watch.stop()
        self._hear(events)

    def check(self) -> None:
        self._engine.check_integrity()

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            number = int(event.turn_id)
            match event:
                case PixelsNeeded():
                    self._engine.put_pixels(modelled_pixels(event.digest))
                case TokenOut():
                    self._said[number].append(event.token)
                case Finished():
                    self.num_answered += 1
                    if self._num_turns[number] < MAX_TURNS:
                        self._silent.add(number)
                case Failed():
                    raise RuntimeError(event.message)
                case Prefilled() if self._num_turns[number] > 1:
                    self.found += event.cached_tokens


def measure(crowd: Crowd, num_running: int, num_steps: int) -> tuple[list[float], list[float]]:
    """Times of steps that only decode, and of those with turns that come or go."""
    decoding: list[float] = []
    changing: list[float] = []
    for _ in range(num_running):
        crowd.ask_anyone()
    num_ended = 0
    for number in track(range(NUM_WARM_STEPS + num_steps), "steps"):
        has_begun = num_ended > 0
        for _ in range(num_ended):
            crowd.ask_anyone()
        before = crowd.num_answered
        crowd.step()
        num_ended = crowd.num_answered - before
        took = crowd.watch.take()
        if number >= NUM_WARM_STEPS:
            (changing if has_begun or num_ended else decoding).append(took)
    return decoding, changing


def main(
    sessions: Annotated[int, typer.Option(min=2)] = 1000,
    *,
    running: Annotated[int, typer.Option(min=1, help="Answered at a time.")] = 64,
    steps: Annotated[int, typer.Option(min=10)] = 3000,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print, and keep the run."""
    if running >= sessions:
        raise typer.BadParameter("fewer than there are sessions", param_hint="--running")
    console, load_before, seed = Console(), load_average(), choose_seed(seed)
    crowd = Crowd(sessions, running, seed)
    for number in track(range(sessions), "opening", console=console):
        crowd.open(number)
    crowd.watch.take()
    num_before = crowd.num_answered
    decoding, changing = measure(crowd, running, steps)
    crowd.check()
    report = Report(
        **conditions(load_before),
        seed=seed,
        num_sessions=sessions,
        num_running=running,
        decoding=Quantiles.of(decoding),
        changing=Quantiles.of(changing),
        num_turns=crowd.num_answered - num_before,
        cached_share=crowd.found / crowd.known,
    )
    console.print(_table(report))
    keep_run("bookkeeping", report, out, console)


def _table(report: Report) -> Table:
    table = Table(
        title=f"{report.num_sessions} sessions, {report.num_running} answered at a time: "
        "ms of a step without the device's"
    )
    for heading in ("steps", "how many", "p50", "p95", "p99", "largest"):
        table.add_column(heading, justify="right")
    kinds = {"all decode": report.decoding, "turns come or go": report.changing}
    for name, each in kinds.items():
        times = (each.p50, each.p95, each.p99, each.largest)
        table.add_row(name, str(each.num_samples), *(f"{ms:.3f}" for ms in times))
    return table


if __name__ == "__main__":
    typer.run(main)
