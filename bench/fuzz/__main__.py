"""Feed the targets, print what became of the inputs, and keep the figures as JSON."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from bench.fuzz.catalog import NEED_SERVICE, TARGETS
from bench.fuzz.run import Fed, feed_apart
from bench.keep import RESULTS, moment
from bench.machine import Machine, describe_machine, load_average
from bench.program import Out, keep_run, telling
from bench.service import ServiceFailed, running_service

ALL = "all"
NUM_INPUTS = 50_000
SERVICE = {
    "VLM_THREADS": "1",
    "VLM_FETCH_TIMEOUT_SECONDS": "1",
    "VLM_DEFAULT_MAX_NEW_TOKENS": "4",
    "VLM_LIMIT_MAX_NEW_TOKENS": "16",
}
"""Short answers: what is looked for is not in the tokens."""
MOST_FREQUENT = 8


@dataclass(frozen=True, slots=True)
class Report:
    taken_at: str
    machine: Machine
    load_average: float
    seed: int
    targets: tuple[Fed, ...]


async def feed_all(
    names: Sequence[str], num_inputs: int, seed: int, start: int, console: Console
) -> list[Fed]:
    """One after the other; a target that needs it has a service for itself."""
    fed = []
    with Progress(console=console) as bar:
        for name in names:
            task = bar.add_task(name, total=num_inputs)
            feed = partial(
                feed_apart,
                name,
                num_inputs,
                seed,
                start=start,
                on_progress=partial(_show_progress, bar, task),
            )
            async with _service_for(name) as url:
                fed.append(await asyncio.to_thread(feed, url=url))
    return fed


def _show_progress(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done)


@asynccontextmanager
async def _service_for(name: str) -> AsyncIterator[str]:
    """The URL of a service, if the target needs one."""
    if name not in NEED_SERVICE:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="vlm-fuzz-") as work:
        async with running_service(SERVICE, Path(work)) as url:
            yield url


def show(fed: Sequence[Fed], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "inputs", "a second", "slowest ms", "MiB more", "files more"):
        table.add_column(heading, justify="right")
    table.add_column("what became of them")
    for each in fed:
        table.add_row(
            each.name,
            f"{each.num_inputs:,}",
            f"{each.num_inputs / max(each.seconds, 0.1):,.0f}",
            f"{each.slowest_ms:g}",
            f"{sum(each.memory_growth_mib.values()):.1f}",
            f"{each.descriptors_growth}",
            ", ".join(f"{k} {v:,}" for k, v in list(each.outcomes.items())[:MOST_FREQUENT]),
        )
    console.print(table)
    for each in fed:
        for finding in each.findings:
            console.print(f"{each.name}: {finding}", style="red", markup=False, soft_wrap=True)


def main(
    target: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(TARGETS)} or {ALL}; repeat it.")
    ] = None,
    *,
    inputs: Annotated[int, typer.Option(min=1, help="For each target.")] = NUM_INPUTS,
    seed: Annotated[int, typer.Option(help="The same one gives the same inputs.")] = 1,
    start: Annotated[int, typer.Option(min=0, help="Number of the first.")] = 0,
    out: Out = RESULTS,
) -> None:
    """Feed the targets; ends with 1 if there was a finding."""
    console = Console()
    names = list(TARGETS) if target in (None, [ALL]) else list(target or ())
    if unknown := set(names) - set(TARGETS):
        raise typer.BadParameter(f"{', '.join(unknown)}: known are {', '.join(TARGETS)}, {ALL}")
    with telling(console, ServiceFailed):
        fed = asyncio.run(feed_all(names, inputs, seed, start, console))
    show(fed, console)
    report = Report(moment(), describe_machine(), load_average(), seed, tuple(fed))
    keep_run("fuzz", report, out, console)
    raise typer.Exit(any(each.findings for each in fed))


if __name__ == "__main__":
    typer.run(main)
