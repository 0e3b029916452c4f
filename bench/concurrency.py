"""``python -m bench.concurrency``: tokens a second by how many sessions are answered at once.

The engine alone. The sessions' pictures are in its caches, so a round is a follow-up of each at the
same moment: its prompt, then its tokens. Sessions of pictures of their own and sessions that all
show the same one take turns in every round, as do the numbers of sessions.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.direct import DirectConversation
from bench.engine import EngineAlone, running_engine
from bench.figures import Spread
from bench.keep import RESULTS
from bench.machine import Conditions, conditions, load_average
from bench.model import build_checkpoint
from bench.program import Out, Seed, choose_seed, keep_run
from bench.shapes import SHAPES, Shape
from bench.workload import Workload

SIZES = (1, 2, 4, 8, 16, 32)
NUM_WORDS = 15
NUM_TOKENS = 32
KINDS = ("pictures of their own", "one picture")


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of so many sessions at once."""

    pictures: str
    """One of ``KINDS``."""
    num_sessions: int
    rate: Spread
    """Tokens a second, over the rounds; the prompts' time is in it."""


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    seed: int
    shape: str
    dtype: str
    threads: int
    num_rounds: int
    throughputs: tuple[Throughput, ...]


async def measure(
    shape: Shape, sizes: Sequence[int], num_rounds: int, seed: int, settings: Mapping[str, str]
) -> tuple[str, tuple[Throughput, ...]]:
    """dtype, and the figures of each kind and number."""
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as folder:
        build_checkpoint(shape, Path(folder))
        async with running_engine({**settings, "VLM_MODEL": folder}) as engine:
            workload = Workload(seed)
            held = {
                kind: await _hold(engine, workload, max(sizes), one_picture=kind == KINDS[1])
                for kind in KINDS
            }
            for _ in track(range(num_rounds + 1), "rounds"):
                for kind, sessions in held.items():
                    for size in sizes:
                        rate = await _rate(sessions[:size], workload)
                        rates.setdefault((kind, size), []).append(rate)
            dtype = engine.info.dtype
    # The first round is what teaches the engine its pace.
    return dtype, tuple(
        Throughput(kind, size, Spread.of(found[1:])) for (kind, size), found in rates.items()
    )


async def _hold(
    engine: EngineAlone, workload: Workload, num_sessions: int, *, one_picture: bool
) -> list[DirectConversation]:
    picture = workload.picture()
    sessions = []
    for _ in track(range(num_sessions), "opening"):
        shown = picture if one_picture else workload.picture()
        session = DirectConversation(engine.engine, engine.processor, shown)
        await session.open()
        await session.ask(workload.question(NUM_WORDS), 1)
        sessions.append(session)
    return sessions


async def _rate(sessions: Sequence[DirectConversation], workload: Workload) -> float:
    questions = [workload.question(NUM_WORDS) for _ in sessions]
    started = time.perf_counter()
    await asyncio.gather(
        *(
            session.say(question, NUM_TOKENS)
            for session, question in zip(sessions, questions, strict=True)
        )
    )
    return len(sessions) * NUM_TOKENS / (time.perf_counter() - started)


def print_report(report: Report, console: Console) -> None:
    table = Table(title=f"{report.shape}, {report.dtype}: tokens a second")
    for heading in ("sessions of", "at once", "tokens/s", "smallest", "largest"):
        table.add_column(heading, justify="left" if heading == "sessions of" else "right")
    for each in report.throughputs:
        rate = each.rate
        figures = (f"{rate.median:.1f}", f"{rate.smallest:.1f}", f"{rate.largest:.1f}")
        table.add_row(each.pictures, f"{each.num_sessions}", *figures)
    console.print(table)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "221m",
    *,
    size: Annotated[list[int] | None, typer.Option(min=1, help="At once; repeat it.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    dtype: Annotated[str, typer.Option()] = "float32",
    device: Annotated[str, typer.Option()] = "auto",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    settings = {"VLM_THREADS": str(threads), "VLM_DTYPE": dtype, "VLM_DEVICE": device}
    load_before = load_average()
    found, throughputs = asyncio.run(measure(SHAPES[shape], size or SIZES, rounds, seed, settings))
    report = Report(
        **conditions(load_before),
        seed=seed,
        shape=shape,
        dtype=found,
        threads=threads,
        num_rounds=rounds,
        throughputs=throughputs,
    )
    print_report(report, console)
    keep_run("concurrency", report, out, console)


if __name__ == "__main__":
    typer.run(main)
