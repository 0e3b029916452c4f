"""``python -m bench.soak``: half an hour of steady use, after which everything is as it was.

The real stack with the built-in model, and visitors as those of ``bench.load`` at a steady rate.
One in eight never closes its session, which then expires. Every half a minute memory, descriptors
and threads of each process are looked at, the caches and the journal, and the times to first
tokens. A figure that grows by more than its margin, by a line that outliers do not bend, is a leak
until it is explained. Caches are small and tombstones short-lived, so that all is full long before
the end.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from bench.keep import RESULTS
from bench.load.arrivals import Habits, schedule
from bench.load.client import LoadClient
from bench.load.generator import Generator
from bench.load.levels import level_of
from bench.load.outcomes import Limits, Run
from bench.machine import conditions, load_average
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.service import ServiceFailed, running_service
from bench.soak.report import Report, print_report
from bench.soak.samples import Sample, take_sample, trends_of, verdicts_of

SETTINGS = {
    "VLM_THREADS": "1",
    "VLM_KV_CACHE_MB": "16",
    "VLM_FEATURE_CACHE_MB": "2",
    "VLM_PIXEL_CACHE_MB": "8",
    "VLM_SESSION_IDLE_SECONDS": "60",
    "VLM_TOMBSTONE_SECONDS": "60",
}
HABITS = Habits(share_left_open=1 / 8)
LIMITS = Limits(ttft_seconds=1.0, gap_seconds=0.1)


async def measure(
    *, minutes: float, minutes_before: float, every: float, rate: float, seed: int, console: Console
) -> Report:
    """Let visitors come at ``rate``, and look every so many seconds."""
    load_before, rng = load_average(), Random(f"soak {seed}")
    visits = schedule(rate, HABITS, rng, begins=0.0, ends=60 * minutes)
    with tempfile.TemporaryDirectory(prefix="vlm-soak-") as work:
        async with running_service(SETTINGS, Path(work)) as url, LoadClient.of(url) as client:
            traffic = asyncio.create_task(Generator(client, HABITS, rng).run(visits))
            samples = await _look(url, Path(work) / "state", 60 * minutes, every, console)
            run = await traffic
    return _report(
        run,
        tuple(samples),
        minutes=minutes,
        minutes_before=minutes_before,
        every=every,
        rate=rate,
        seed=seed,
        load_before=load_before,
    )


async def _look(
    url: str, state: Path, seconds: float, every: float, console: Console
) -> list[Sample]:
    started, samples = time.perf_counter(), []
    with Progress(console=console) as bar:
        task = bar.add_task("soaking", total=seconds)
        for number in range(1, int(seconds // every) + 1):
            await asyncio.sleep(max(0.0, started + number * every - time.perf_counter()))
            samples.append(await take_sample(number * every, url, state))
            bar.update(task, completed=number * every)
    return samples


def _report(
    run: Run,
    samples: tuple[Sample, ...],
    *,
    minutes: float,
    minutes_before: float,
    every: float,
    rate: float,
    seed: int,
    load_before: float,
) -> Report:
    levels = tuple(
        level_of(
            run,
            LIMITS,
            rate=rate,
            begins=sample.at - every,
            ends=sample.at,
            load=sample.load,
        )
        for sample in samples
    )
    num_before = int(60 * minutes_before // every)
    trends = trends_of(samples[num_before:], levels[num_before:])
    return Report(
        **conditions(load_before),
        seed=seed,
        settings=SETTINGS,
        habits=HABITS,
        rate=rate,
        limits=LIMITS,
        minutes=minutes,
        minutes_before=minutes_before,
        samples=samples,
        levels=levels,
        num_failed=sum(level.num_failed for level in levels),
        trends=trends,
        verdicts=verdicts_of(trends),
    )


def main(
    minutes: Annotated[float, typer.Option(help="In all.")] = 30.0,
    *,
    before: Annotated[float, typer.Option(help="Minutes that do not count.")] = 5.0,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Questions a second, on average.")] = 8.0,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    if 60 * (minutes - before) < 2 * every:
        raise typer.BadParameter("at least two looks must count: raise --minutes")
    seed = choose_seed(seed)
    with telling(console, ServiceFailed):
        report = asyncio.run(
            measure(
                minutes=minutes,
                minutes_before=before,
                every=every,
                rate=rate,
                seed=seed,
                console=console,
            )
        )
    print_report(report, console)
    keep_run("soak", report, out, console)


if __name__ == "__main__":
    typer.run(main)
