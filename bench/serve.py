"""``python -m bench.serve``: first prompts, follow-ups and throughput through the real stack,
beside sending the picture every time and beside the engine alone, all in one run.

A round is one pass over everything, so that what else happens on the machine meets all scenarios
alike; reported are medians over the rounds and their spread.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.direct import converse
from bench.engine import EngineAlone, running_engine
from bench.figures import Figures, Rates, Round, compute_figures
from bench.keep import RESULTS, moment
from bench.machine import describe_machine, load_average
from bench.model import build_checkpoint
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.report import Report, print_report
from bench.scenarios import ask_with_picture, hold_session, picture_rate, session_rate
from bench.service import ServiceFailed, running_service
from bench.shapes import SHAPES
from bench.workload import Lengths, Workload
from vlm_sessions.client import AsyncClient

CLIENT_SECONDS = 300.0
NUM_WARM_REQUESTS = 300


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done in a round."""

    lengths: Lengths
    num_sessions: int
    rate_lengths: Lengths
    num_clients: int = 8


# shape -> effort that takes about half a minute a round on one core
EFFORTS = {
    "demo": Effort(Lengths(8, 24, 48), num_sessions=4, rate_lengths=Lengths(4, 24, 48)),
    "tiny": Effort(Lengths(3, 8, 8), num_sessions=1, rate_lengths=Lengths(2, 8, 8), num_clients=2),
    "221m": Effort(Lengths(4, 24, 16), num_sessions=1, rate_lengths=Lengths(2, 24, 16)),
}


async def measure(
    shape: str, num_rounds: int, seed: int, settings: dict[str, str], console: Console
) -> Figures:
    """All scenarios with one model."""
    effort = EFFORTS[shape]
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as work:
        folder = Path(work)
        build_checkpoint(SHAPES[shape], folder / "model")
        settings = {**settings, "VLM_MODEL": str(folder / "model")}
        console.print(f"{shape}: starting the service and, beside it, the engine alone …")
        async with (
            running_service(settings, folder) as url,
            running_engine(settings) as engine,
            AsyncClient(url, timeout=CLIENT_SECONDS) as client,
        ):
            await _warm_up(client, engine, effort, seed)
            rounds = []
            for number in range(num_rounds):
                console.print(f"{shape}: round {number + 1} of {num_rounds}")
                rounds.append(await _round(client, engine, effort, Workload(seed + number)))
            dtype = engine.info.dtype
    return compute_figures(shape, dtype, effort.lengths, rounds)


async def _round(
    client: AsyncClient, engine: EngineAlone, effort: Effort, workload: Workload
) -> Round:
    lengths, many = effort.lengths, effort.num_clients
    sessions, alone = [], []
    for _ in range(effort.num_sessions):
        sessions.append(await hold_session(client, workload, lengths))
        alone += (await converse(engine.engine, engine.processor, workload, lengths))[1:]
    with_picture = await ask_with_picture(client, workload, lengths)
    rate = effort.rate_lengths
    rates = Rates(
        num_clients=many,
        session_one=await session_rate(client, workload, rate, 1),
        session_many=await session_rate(client, workload, rate, many),
        picture_one=await picture_rate(client, workload, rate, 1),
        picture_many=await picture_rate(client, workload, rate, many),
    )
    return Round(tuple(sessions), with_picture, tuple(alone), rates)


async def _warm_up(client: AsyncClient, engine: EngineAlone, effort: Effort, seed: int) -> None:
    """First calls allocate, compile and load: none of that belongs to a measurement. Java compiles
    what it has done a few hundred times, until then its part of a prompt takes milliseconds more.
    """
    workload = Workload(~seed)
    async with client.open(workload.picture()) as session:
        for _ in range(NUM_WARM_REQUESTS):
            await session.describe()
    short = Lengths(8, effort.lengths.num_question_words, 4)
    await hold_session(client, workload, short)
    await ask_with_picture(client, workload, Lengths(1, 4, 4))
    await converse(engine.engine, engine.processor, workload, short)


def main(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(EFFORTS)}; may be repeated.")
    ] = None,
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of each engine.")] = 1,
    dtype: Annotated[str, typer.Option(help="Of weights and KV.")] = "auto",
    device: Annotated[str, typer.Option()] = "auto",
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    settings = {"VLM_THREADS": str(threads), "VLM_DTYPE": dtype, "VLM_DEVICE": device}
    load_before = load_average()
    with telling(console, ServiceFailed):
        figures = tuple(
            asyncio.run(measure(name, rounds, seed, settings, console))
            for name in shape or ["demo", "221m"]
        )
    report = Report(
        taken_at=moment(),
        machine=describe_machine(),
        threads=threads,
        load_before=load_before,
        load_after=load_average(),
        seed=seed,
        figures=figures,
    )
    print_report(report, console)
    keep_run("serve", report, out, console)


if __name__ == "__main__":
    typer.run(main)
