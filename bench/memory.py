"""``python -m bench.memory``: what open sessions cost, in memory and in the state directory.

Each session shows a picture of its own and has asked one question, with the built-in model. Memory
is what each process has to itself (the unique set size): what libraries share is not counted twice.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.keep import RESULTS, moment
from bench.machine import Machine, describe_machine
from bench.processes import MARKS, look_at_all, state_bytes
from bench.program import Out, keep_run, telling
from bench.service import ServiceFailed, running_service
from bench.workload import Workload
from vlm_sessions.client import AsyncClient

SIZES = (0, 100, 1000, 3000)
NUM_CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Footprint:
    """With so many sessions open: MiB by process, and KiB of the state directory without logs."""

    num_sessions: int
    memory_mib: Mapping[str, float]
    state_kib: float


@dataclass(frozen=True, slots=True)
class Report:
    taken_at: str
    machine: Machine
    footprints: tuple[Footprint, ...]


async def measure(sizes: tuple[int, ...], console: Console) -> tuple[Footprint, ...]:
    """Open more and more sessions, and look at each size."""
    found = []
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as work, Progress(console=console) as bar:
        opening = bar.add_task("sessions", total=max(sizes))
        settings = {"VLM_THREADS": "1", "VLM_MAX_SESSIONS": str(max(*sizes, 1))}
        async with running_service(settings, Path(work)) as url, AsyncClient(url) as client:
            workload, num_open = Workload(1), 0
            for size in sorted(sizes):
                while num_open < size:
                    count = min(NUM_CLIENTS, size - num_open)
                    await asyncio.gather(*(_hold(client, workload) for _ in range(count)))
                    num_open += count
                    bar.update(opening, completed=num_open)
                found.append(_footprint(num_open, url, Path(work) / "state"))
    return tuple(found)


def _footprint(num_open: int, url: str, state: Path) -> Footprint:
    memory = {name: usage.own for name, usage in look_at_all(url).items()}
    return Footprint(num_open, memory, round(state_bytes(state) / 1024, 1))


async def _hold(client: AsyncClient, workload: Workload) -> None:
    session = await client.open(workload.picture())
    await session.ask("How many shapes are there?", max_new_tokens=8)


def main(
    sessions: Annotated[
        list[int] | None, typer.Option(min=0, help="How many are open at a look; repeat it.")
    ] = None,
    *,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    with telling(console, ServiceFailed):
        footprints = asyncio.run(measure(tuple(sessions or SIZES), console))
    table = Table(box=None, pad_edge=False, title="MiB of each process, KiB of state")
    for heading in ("sessions", *MARKS, "state"):
        table.add_column(heading, justify="right")
    for each in footprints:
        memory = [f"{each.memory_mib.get(name, 0):.0f}" for name in MARKS]
        table.add_row(str(each.num_sessions), *memory, f"{each.state_kib:.0f}")
    console.print(table)
    report = Report(moment(), describe_machine(), footprints)
    keep_run("memory", report, out, console)


if __name__ == "__main__":
    typer.run(main)
