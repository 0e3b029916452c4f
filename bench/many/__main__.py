"""``python -m bench.many``: ten thousand open sessions, mostly idle, and each still answers.

The real stack with the built-in model, three times beside each other: with 100, 1,000 and 10,000
sessions open, each opened over HTTP with a picture that no other has. Requests are then timed one
after another, a few of each kind with each service in turn, so that what else happens on the
machine meets all alike; and so are three tables of sessions without a service, whose clock can be
moved, so that sessions expire one by one. Memory and journal are looked at. In the end sessions of
the largest are asked, all or some by chance, and their answers compared with those of fresh ones:
most no longer have anything on the device, whose caches are smaller than what all would fill.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from bench.keep import RESULTS
from bench.load.client import LoadClient
from bench.machine import conditions, load_average
from bench.many.asking import NUM_SCENES, AskingFailed, Crowd
from bench.many.report import Look, Report, print_report, ratios_of, verdicts_of
from bench.many.store import Table
from bench.measure import Quantiles
from bench.pictures import Pictures
from bench.processes import MIB, look_at_all, state_bytes
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.service import ServiceFailed, running_service

SIZES = (100, 1000, 10_000)


class Side:
    """One size: a service and a table with so many sessions open."""

    def __init__(self, size: int, crowd: Crowd, table: Table, folder: Path) -> None:
        self.crowd = crowd
        self._size = size
        self._table = table
        self._folder = folder
        self._times: dict[str, list[float]] = {}

    async def grow(self, bar: Progress) -> None:
        """Open all."""
        task = bar.add_task(f"opening {self._size:,}", total=self._size)
        await self.crowd.warm_up()
        await self.crowd.grow(self._size, lambda count: bar.advance(task, count))
        await self._table.grow(self._size)

    async def time(self, num_requests: int) -> None:
        """Take a few samples of each kind."""
        for source in (self.crowd, self._table):
            for name, values in (await source.times(num_requests)).items():
                self._times.setdefault(name, []).extend(values)

    async def look(self) -> Look:
        """All samples, and what there is to see just now."""
        figures = await self.crowd.figures()
        return Look(
            num_sessions=self._size,
            times={name: Quantiles.of(values) for name, values in self._times.items()},
            processes=look_at_all(self.crowd.url),
            kv=figures["vlm_cache_bytes{kv_device}"] / MIB,
            features=figures["vlm_feature_cache_bytes"] / MIB,
            state=state_bytes(self._folder / "state") / MIB,
        )


async def measure(
    sizes: Sequence[int],
    *,
    num_rounds: int,
    num_requests: int,
    num_asked: int,
    budget_mib: float,
    settings: Mapping[str, str],
    seed: int,
    console: Console,
) -> Report:
    """Open sessions, time requests beside each other, then ask."""
    load_before, rng = load_average(), Random(f"many {seed}")
    sizes = sorted(sizes)
    settings = {**settings, "VLM_MAX_SESSIONS": str(sizes[-1] + num_requests)}
    pictures = Pictures(rng, min(NUM_SCENES, sizes[-1]))
    async with AsyncExitStack() as stack:
        bar = stack.enter_context(Progress(console=console))
        sides = [
            await _side(
                stack,
                size,
                num_requests=num_requests,
                settings=settings,
                pictures=pictures,
                rng=rng,
            )
            for size in sizes
        ]
        for side in sides:
            await side.grow(bar)
        timing = bar.add_task("timing", total=num_rounds)
        for _ in range(num_rounds):
            for side in sides:
                await side.time(num_requests)
            bar.advance(timing)
        looks = tuple([await side.look() for side in sides])
        numbers = rng.sample(range(sizes[-1]), min(num_asked or sizes[-1], sizes[-1]))
        asking = bar.add_task("asking", total=len(numbers))
        checked = await sides[-1].crowd.check(numbers, lambda count: bar.advance(asking, count))
    return Report(
        **conditions(load_before),
        seed=seed,
        settings=settings,
        budget_mib=budget_mib,
        num_rounds=num_rounds,
        num_requests=num_requests,
        looks=looks,
        ratios=ratios_of(looks),
        checked=checked,
        verdicts=verdicts_of(looks, checked, budget_mib),
    )


async def _side(
    stack: AsyncExitStack,
    size: int,
    *,
    num_requests: int,
    settings: Mapping[str, str],
    pictures: Pictures,
    rng: Random,
) -> Side:
    """Start a service; it ends with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vlm-many-")))
    url = await stack.enter_async_context(running_service(settings, folder))
    client = await stack.enter_async_context(LoadClient.of(url))
    table = Table(folder / "table", size + num_requests, rng)
    await table.start()
    stack.push_async_callback(table.close)
    return Side(size, Crowd(url, client, pictures, rng), table, folder)


def main(
    sessions: Annotated[
        list[int] | None, typer.Option(min=1, help="How many are open beside each other; repeat.")
    ] = None,
    *,
    ask: Annotated[int, typer.Option(min=0, help="How many are asked; 0: each.")] = 200,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    requests: Annotated[int, typer.Option(min=2, help="Of each kind, in a round.")] = 20,
    budget: Annotated[float, typer.Option(help="MiB, of all processes of one service.")] = 2048.0,
    kv_cache: Annotated[int, typer.Option(help="MiB of KV blocks.")] = 512,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print tables, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    settings = {
        "VLM_THREADS": "1",
        "VLM_KV_CACHE_MB": str(kv_cache),
        "VLM_SESSION_IDLE_SECONDS": "36000",
        "VLM_MAX_WAIT_SECONDS": "0",
    }
    with telling(console, ServiceFailed, AskingFailed):
        report = asyncio.run(
            measure(
                sessions or SIZES,
                num_rounds=rounds,
                num_requests=requests,
                num_asked=ask,
                budget_mib=budget,
                settings=settings,
                seed=seed,
                console=console,
            )
        )
    print_report(report, console)
    keep_run("many", report, out, console)


if __name__ == "__main__":
    typer.run(main)
