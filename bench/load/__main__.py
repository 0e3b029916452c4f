"""``make load``: at which rate the service stops to be good enough, and what it does beyond.

The real stack with the built-in model, and this process, which does nothing but ask, at moments
drawn beforehand, and take down what it gets. A turn is good if it meets the limits; goodput is good
turns a second. The rate rises until turns are no longer good; at twice the last good rate the
service must refuse the excess at once and go on as well as before; then it is left in peace, and
must be as before.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from bench.keep import RESULTS
from bench.load.arrivals import Habits, schedule
from bench.load.client import LoadClient
from bench.load.generator import Generator
from bench.load.knee import find_knee
from bench.load.levels import Level, level_of
from bench.load.outcomes import Limits
from bench.load.overload import Overload, figures_of, plan_overload
from bench.load.report import MAX_LATENESS_MS, Report, print_report
from bench.machine import conditions, load_average
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.service import ServiceFailed, running_service

WAIT_SHARE = 0.5
"""Of the limit for a first token, that the service may let a prompt wait: the rest is for the way
to it and back."""


class Load:
    """Measures one service."""

    def __init__(
        self,
        generator: Generator,
        habits: Habits,
        limits: Limits,
        *,
        seconds: float,
        max_wait: float,
        seed: int,
    ) -> None:
        self._generator = generator
        self._habits = habits
        self._limits = limits
        self._seconds = seconds
        self._max_wait = max_wait
        self._random = Random(f"load {seed}")

    async def level(self, rate: float) -> Level:
        """Measure a rate, once as many visits end as begin."""
        visits = schedule(
            rate,
            self._habits,
            self._random,
            begins=-2 * self._habits.mean_seconds,
            ends=self._seconds,
        )
        run = await self._generator.run(visits)
        return level_of(
            run, self._limits, rate=rate, begins=0.0, ends=self._seconds, load=load_average()
        )

    async def overload(self, knee: Level, factor: float) -> Overload:
        plan = plan_overload(
            knee.rate,
            factor,
            self._seconds,
            self._habits,
            self._random,
            line_seconds=self._max_wait,
        )
        run = await self._generator.run(plan.visits)
        return figures_of(run, plan, self._limits, factor, knee)

    async def warm_up(self, rate: float, seconds: float) -> None:
        visits = schedule(rate, self._habits, self._random, begins=0.0, ends=seconds)
        await self._generator.run(visits)


async def measure(
    settings: Mapping[str, str],
    habits: Habits,
    limits: Limits,
    *,
    rates: tuple[float, float, float],
    warm_seconds: float,
    seconds: float,
    factor: float,
    num_halvings: int,
    seed: int,
    console: Console,
) -> Report:
    """Find the knee and go beyond it. ``rates``: the first, its growth, the highest."""
    load_before = load_average()
    with tempfile.TemporaryDirectory(prefix="vlm-load-") as work, Progress(console=console) as bar:
        task = bar.add_task("starting the service", total=None)
        async with (
            running_service(settings, Path(work)) as url,
            LoadClient.of(url) as client,
        ):
            load = Load(
                Generator(client, habits, Random(seed)),
                habits,
                limits,
                seconds=seconds,
                max_wait=float(settings["VLM_MAX_WAIT_SECONDS"]),
                seed=seed,
            )
            first_rate, growth, max_rate = rates
            bar.update(task, description="warming up")
            await load.warm_up(first_rate, warm_seconds)
            gc.freeze()  # what is there now is not looked through again while it measures

            async def level(rate: float) -> Level:
                return await _shown(bar, task, load, rate)

            knee = await find_knee(
                level,
                first_rate=first_rate,
                growth=growth,
                max_rate=max_rate,
                num_halvings=num_halvings,
            )
            overload = None
            if knee.level is not None and factor:
                bar.update(task, description=f"{factor:g} × {knee.level.rate:.1f} turns/s")
                overload = await load.overload(knee.level, factor)
    return Report(
        **conditions(load_before),
        seed=seed,
        settings=settings,
        habits=habits,
        limits=limits,
        levels=knee.levels,
        knee=knee.level,
        is_found=knee.is_found,
        overload=overload,
        verdicts=_verdicts(knee.levels, overload),
    )


async def _shown(bar: Progress, task: TaskID, load: Load, rate: float) -> Level:
    bar.update(task, description=f"{rate:.1f} turns/s")
    level = await load.level(rate)
    bar.console.print(
        f"{rate:.1f} turns/s: {level.good_share:.0%} good, {level.num_refused} refused",
        highlight=False,
    )
    return level


def _verdicts(levels: tuple[Level, ...], overload: Overload | None) -> dict[str, bool]:
    late = [level.lateness.p99 for level in levels if level.lateness is not None]
    verdicts = {} if overload is None else overload.verdicts
    on_time = f"the generator itself is on time within {MAX_LATENESS_MS:g} ms, p99"
    return {**verdicts, on_time: max(late, default=0.0) <= MAX_LATENESS_MS}


def main(
    ttft: Annotated[float, typer.Option(help="Seconds to the first token, at most.")] = 1.0,
    gap: Annotated[float, typer.Option(help="Seconds between tokens, mean, at most.")] = 0.1,
    *,
    max_wait: Annotated[
        float, typer.Option(help="VLM_MAX_WAIT_SECONDS of the service; 0: half of --ttft.")
    ] = 0.0,
    warm: Annotated[
        float, typer.Option(help="Seconds at the first rate, in which Java compiles what it does.")
    ] = 15.0,
    seconds: Annotated[float, typer.Option(help="That a rate is measured for.")] = 20.0,
    first_rate: Annotated[float, typer.Option(help="Turns a second.")] = 8.0,
    growth: Annotated[float, typer.Option(help="From one rate to the next.")] = 1.5,
    max_rate: Annotated[float, typer.Option()] = 1000.0,
    halvings: Annotated[int, typer.Option(help="Of the step in which the knee lies.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Questions of a session.")] = 4,
    think: Annotated[float, typer.Option(help="Seconds before each question, mean.")] = 1.5,
    overload: Annotated[float, typer.Option(help="Times the knee's rate; 0: leave it.")] = 2.0,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    wait = max_wait or WAIT_SHARE * ttft
    with telling(console, ServiceFailed):
        report = asyncio.run(
            measure(
                {"VLM_THREADS": "1", "VLM_MAX_WAIT_SECONDS": f"{wait:g}"},
                Habits(num_turns=turns, think_seconds=think),
                Limits(ttft, gap),
                rates=(first_rate, growth, max_rate),
                warm_seconds=warm,
                seconds=seconds,
                factor=overload,
                num_halvings=halvings,
                seed=seed,
                console=console,
            )
        )
    print_report(report, console)
    keep_run("load", report, out, console)


if __name__ == "__main__":
    typer.run(main)
