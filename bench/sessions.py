"""``python -m bench.sessions``: a thousand sessions in a gibibyte of caches, of a model whose one
conversation takes 45 MiB of KV in float32; and what each of them answers next, and how soon.

Every session has a picture of its own. It is opened and asked; what it would answer to its next
question is noted while all of it is on the device. When all are held, each is asked that question,
in random order: the answer must be the one noted, wherever the session is by then.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.direct import DirectConversation
from bench.engine import EngineAlone, running_engine
from bench.keep import RESULTS
from bench.levels import LEVELS
from bench.machine import Conditions, conditions, load_average
from bench.measure import Quantiles
from bench.model import build_checkpoint
from bench.processes import MIB, look, name_of
from bench.program import Out, Seed, choose_seed, keep_run
from bench.shapes import SHAPES, Shape
from bench.workload import Workload

NUM_WORDS = 15
NUM_TOKENS = 4
NUM_LOOKS = 20


@dataclass(frozen=True, slots=True)
class Budgets:
    """Of each cache, in MiB."""

    kv: int
    features: int
    pixels: int

    def environ(self) -> dict[str, str]:
        return {
            "VLM_KV_CACHE_MB": str(self.kv),
            "VLM_FEATURE_CACHE_MB": str(self.features),
            "VLM_PIXEL_CACHE_MB": str(self.pixels),
            "VLM_HOST_KV_MB": "0",
            "VLM_HOST_FEATURE_MB": "0",
        }


@dataclass(frozen=True, slots=True)
class Look:
    """With so many sessions held. MiB."""

    num_sessions: int
    cached: float
    """Taken in the caches."""
    own: float
    """Of the engine's process, the model among it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The sessions that were found on one level."""

    level: str
    num_sessions: int
    num_as_noted: int
    ttft: Quantiles
    """ms."""


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    seed: int
    shape: str
    dtype: str
    threads: int
    budgets: Budgets
    looks: tuple[Look, ...]
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    conversation: DirectConversation
    question: str
    noted: tuple[int, ...]
    """The conversation with the answer."""


async def measure(
    shape: Shape, num_sessions: int, budgets: Budgets, seed: int, settings: Mapping[str, str]
) -> tuple[str, tuple[Look, ...], tuple[Asked, ...]]:
    """dtype, what was seen while sessions were opened, and what they answered then."""
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as folder:
        build_checkpoint(shape, Path(folder))
        environ = {**settings, **budgets.environ(), "VLM_MODEL": folder}
        async with running_engine(environ) as engine:
            held: list[_Held] = []
            looks = [await _look(engine, 0)]
            for number in track(range(num_sessions), "opening"):
                held.append(await _hold(engine, Workload(seed + number)))
                if len(held) % max(1, num_sessions // NUM_LOOKS) == 0:
                    looks.append(await _look(engine, len(held)))
            asked = await _ask_all(held, Random(f"sessions {seed}"))
            return engine.info.dtype, tuple(looks), asked


async def _hold(engine: EngineAlone, workload: Workload) -> _Held:
    conversation = DirectConversation(engine.engine, engine.processor, workload.picture())
    await conversation.open()
    await conversation.ask(workload.question(NUM_WORDS), NUM_TOKENS)
    question = workload.question(NUM_WORDS)
    noted = await conversation.say(question, NUM_TOKENS)
    return _Held(conversation, question, noted.tokens)


async def _look(engine: EngineAlone, num_sessions: int) -> Look:
    stats = await engine.engine.stats()
    (process,) = (each for each in psutil.Process().children() if name_of(each) == "engine")
    cached = stats.kv_bytes + stats.feature_bytes + stats.pixel_bytes
    return Look(num_sessions, round(cached / MIB, 1), look(process).own)


async def _ask_all(held: Sequence[_Held], rng: Random) -> tuple[Asked, ...]:
    ttfts: dict[str, list[float]] = {level.name: [] for level in LEVELS}
    num_as_noted = dict.fromkeys(ttfts, 0)
    for each in track(rng.sample(held, len(held)), "asking"):
        found = await each.conversation.locate()
        name = next(level.name for level in LEVELS if level.is_there(found))
        said = await each.conversation.say(each.question, NUM_TOKENS)
        ttfts[name].append(said.times.ttft)
        num_as_noted[name] += said.tokens == each.noted
    return tuple(
        Asked(name, len(times), num_as_noted[name], Quantiles.of(times))
        for name, times in ttfts.items()
        if times
    )


def print_report(report: Report, console: Console) -> None:
    table = Table(title=f"{report.shape}, {report.dtype}: the next answer of each session")
    for heading in ("found", "sessions", "as noted", "TTFT p50, ms", "p99, ms"):
        table.add_column(heading, justify="left" if heading == "found" else "right")
    for each in report.asked:
        times = (f"{each.ttft.p50:.0f}", f"{each.ttft.p99:.0f}")
        table.add_row(each.level, f"{each.num_sessions}", f"{each.num_as_noted}", *times)
    console.print(table)
    last = report.looks[-1]
    console.print(
        f"{last.num_sessions} sessions: {last.cached:.0f} MiB of caches, the engine's process "
        f"{last.own:.0f} MiB, {report.looks[0].own:.0f} of it before the first"
    )


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "221m",
    *,
    sessions: Annotated[int, typer.Option(min=1)] = 1000,
    kv: Annotated[int, typer.Option(min=1, help="MiB.")] = 192,
    features: Annotated[int, typer.Option(min=0, help="MiB.")] = 768,
    pixels: Annotated[int, typer.Option(min=0, help="MiB.")] = 64,
    dtype: Annotated[str, typer.Option()] = "float32",
    device: Annotated[str, typer.Option()] = "auto",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Hold, ask, print tables, and keep the figures as JSON; 1: an answer was another one."""
    console = Console()
    seed = choose_seed(seed)
    settings = {"VLM_THREADS": str(threads), "VLM_DTYPE": dtype, "VLM_DEVICE": device}
    budgets = Budgets(kv, features, pixels)
    load_before = load_average()
    found, looks, asked = asyncio.run(measure(SHAPES[shape], sessions, budgets, seed, settings))
    report = Report(
        **conditions(load_before),
        seed=seed,
        shape=shape,
        dtype=found,
        threads=threads,
        budgets=budgets,
        looks=looks,
        asked=asked,
    )
    print_report(report, console)
    keep_run("sessions", report, out, console)
    raise typer.Exit(any(each.num_as_noted < each.num_sessions for each in asked))


if __name__ == "__main__":
    typer.run(main)
