"""``python -m bench.decode``: what a step costs, and how much of that is not the model.

Two engines in this process, over the same checkpoint of random weights: one with the kernels that
are chosen by themselves, one with the reference ones. In every round each makes steps of the same
work, and the first one's steps are made once more as a bare loop would: the same kernels, the
layout of the step ready, greedy choice, nothing else. Times are the processor's, of the one thread
that does all the work; ratios are taken within a round, so that other work on the machine meets all
alike.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.keep import RESULTS, moment
from bench.machine import Machine, describe_machine, load_average
from bench.model import build_checkpoint
from bench.program import Out, keep_run
from bench.shapes import SHAPES
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import (
    EngineInfo,
    Plan,
    Sampling,
    StepResult,
    TokenSpan,
    Turn,
)
from vlm_sessions.model.runner import ModelRunner, make_runner

FIRST_WORD = 16
"""Token ids from here on are words, of which any may be said."""
NUM_WARM_ROUNDS = 1
DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Work:
    """So many conversations, each with its tokens in KV but for the last ``num_new``."""

    name: str
    num_sessions: int
    num_new: int = 1
    num_shared: int = 0
    """Tokens that all conversations begin with."""


WORKS = (
    Work("decode, 1 session", 1),
    Work("decode, 8 sessions", 8),
    Work("decode, 8 sessions on one image", 8, num_shared=576),
    Work("follow-up of 19 tokens", 1, num_new=19),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds' values."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True, slots=True)
class Result:
    work: str
    dtype: str
    step_ms: Spread
    """The whole step of the engine."""
    bare_ms: Spread
    """The same step as a bare loop."""
    reference_ms: Spread
    """The engine's step with the reference kernels."""
    overhead: Spread
    """Step over bare, less one."""
    speedup: Spread
    """Reference over step."""
    tokens_per_second: float
    """Of all sessions together; for a follow-up, of its new tokens."""


@dataclass(frozen=True, slots=True)
class DecodeReport:
    taken_at: str
    machine: Machine
    load: float
    shape: str
    num_context: int
    num_rounds: int
    results: list[Result]


class Recorder:
    """``engine.interface.Runner`` that keeps what its last step was made of."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.spans: tuple[TokenSpan, ...] = ()

    @property
    def info(self) -> EngineInfo:
        return self._runner.info

    @property
    def feature_bytes_per_token(self) -> int:
        return self._runner.feature_bytes_per_token

    def execute(self, plan: Plan) -> StepResult:
        self.spans = plan.spans
        return self._runner.execute(plan)


class Subject:
    """An engine, driven a step at a time."""

    def __init__(self, folder: Path, kernels: str, dtype: DType, seed: int) -> None:
        settings = Settings.model_validate(
            {"device": "cpu", "dtype": dtype, "threads": 1, "kv_cache_mb": 768, "kernels": kernels}
        )
        self._runner = make_runner(settings, folder)
        # As after some use: else each step's new blocks are memory that the system has yet to give,
        # while the bare loop finds those that the step has written to.
        self._runner._cache.bits.zero_()
        self._recorder = Recorder(self._runner)
        self._engine = Engine(self._recorder, EngineLimits())
        self._random = random.Random(seed)
        self._turn_ids: list[str] = []

    def hold(self, work: Work, num_context: int, num_steps: int) -> Callable[[], float]:
        """Compute the contexts, and return what makes one step of the work and times it, in ms."""
        common = self._words(work.num_shared)
        contexts = [
            common + self._words(num_context - work.num_shared) for _ in range(work.num_sessions)
        ]
        # First all contexts, so that none goes on while others are computed.
        for context in contexts:
            self._submit(context, num_new=0)
        while self._engine.has_work:
            self._engine.step()
        if work.num_new > 1:
            return lambda: self._follow_up(contexts, work.num_new)
        for context in contexts:
            self._submit(context, num_new=num_steps + 1)
        self._engine.step()
        return self._step

    def clear(self) -> None:
        """End all turns, and forget what they computed."""
        for turn_id in self._turn_ids:
            self._engine.cancel(turn_id)
        self._engine.clear()

    def bare_step(self) -> float:
        """The last step once more: it writes what is there already. In ms."""
        text, spans = self._runner._text, self._recorder.spans
        tokens = torch.tensor([token for span in spans for token in span.tokens])
        rows = torch.tensor([len(span.tokens) for span in spans]).cumsum(0) - 1
        with torch.inference_mode():
            step = self._runner._attention.plan(spans)
            started = time.thread_time()
            hidden = text.forward(text.embed(tokens), step)
            text.greedy(hidden[rows], lambda _: None).tolist()
            return (time.thread_time() - started) * 1e3

    def _words(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.choices(range(FIRST_WORD, 1000), k=count))

    def _submit(self, tokens: tuple[int, ...], *, num_new: int) -> None:
        turn_id = str(len(self._turn_ids))
        self._turn_ids.append(turn_id)
        sampling = Sampling(max_new_tokens=num_new, ignore_eos=True)
        for event in self._engine.add(Turn(turn_id, tokens, (), sampling)):
            raise RuntimeError(str(event))

    def _follow_up(self, contexts: Sequence[tuple[int, ...]], num_new: int) -> float:
        for context in contexts:
            self._submit(context + self._words(num_new), num_new=1)
        took = self._step()
        assert not self._engine.has_work, "a follow-up is one step"
        return took

    def _step(self) -> float:
        started = time.thread_time()
        self._engine.step()
        return (time.thread_time() - started) * 1e3


def measure(folder: Path, dtype: DType, num_context: int, num_rounds: int) -> list[Result]:
    """All works, in turn on both engines."""
    chosen = Subject(folder, "auto", dtype, seed=1)
    reference = Subject(folder, "reference", dtype, seed=1)
    num_rounds += NUM_WARM_ROUNDS
    results = []
    for work in WORKS:
        step, plain_step = (s.hold(work, num_context, 2 * num_rounds) for s in (chosen, reference))
        rounds = [_round(step, chosen.bare_step, plain_step) for _ in range(num_rounds)]
        chosen.clear()
        reference.clear()
        results.append(_result(work, dtype, rounds[NUM_WARM_ROUNDS:]))
    return results


def _round(
    step: Callable[[], float], bare: Callable[[], float], plain: Callable[[], float]
) -> tuple[float, float, float]:
    """Each twice, once before and once after the one that it is compared with: who comes second
    finds more in the processor's cache."""
    early, late = (step(), bare(), plain()), (bare(), step(), plain())
    return (early[0] + late[1]) / 2, (early[1] + late[0]) / 2, (early[2] + late[2]) / 2


def _result(work: Work, dtype: DType, rounds: Sequence[tuple[float, float, float]]) -> Result:
    """Args: rounds: ms of the step, of the bare loop, and of the reference's step."""
    steps, bares, plains = zip(*rounds, strict=True)
    return Result(
        work=work.name,
        dtype=dtype,
        step_ms=Spread.of(steps),
        bare_ms=Spread.of(bares),
        reference_ms=Spread.of(plains),
        overhead=Spread.of([a / b - 1 for a, b in zip(steps, bares, strict=True)]),
        speedup=Spread.of([a / b for a, b in zip(plains, steps, strict=True)]),
        tokens_per_second=work.num_sessions * work.num_new * 1e3 / median(steps),
    )


def show(report: DecodeReport, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("work")
    for heading in ("step ms", "bare ms", "overhead %", "reference ms", "speed-up", "tokens/s"):
        table.add_column(heading, justify="right")
    for result in report.results:
        table.add_row(
            f"{result.work}, {result.dtype}",
            f"{result.step_ms.median:.1f}",
            f"{result.bare_ms.median:.1f}",
            f"{result.overhead.median * 100:.1f}",
            f"{result.reference_ms.median:.1f}",
            f"{result.speedup.median:.2f}",
            f"{result.tokens_per_second:.0f}",
        )
    console.print(f"{report.shape}, contexts of {report.num_context}, one thread, medians")
    console.print(table)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "221m",
    *,
    rounds: Annotated[int, typer.Option(min=2)] = 20,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a conversation.")] = 599,
    dtype: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    out: Out = RESULTS,
) -> None:
    """Measure, print, and keep the run."""
    console, taken_at, load = Console(), moment(), load_average()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as folder:
        build_checkpoint(SHAPES[shape], Path(folder))
        for name in dtype or ["float32", "bfloat16"]:
            kind: DType = "bfloat16" if name == "bfloat16" else "float32"
            results += measure(Path(folder), kind, context, rounds)
    report = DecodeReport(taken_at, describe_machine(), load, shape, context, rounds, results)
    show(report, console)
    keep_run("decode", report, out, console)


if __name__ == "__main__":
    typer.run(main)
