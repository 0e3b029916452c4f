"""``python -m bench.chaos``: break a running service by a seeded schedule, under mixed traffic, and
check after every fault that nothing was lost, nothing hangs, and nothing leaks.

What is done, in which order, and what each client chooses follow from the seed; how it falls
together in time does not.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from bench.chaos.report import Report, print_report
from bench.chaos.run import LIMIT_SECONDS, Effort, Found, run
from bench.chaos.stack import NotRecovered
from bench.chaos.traffic import FAILURES
from bench.keep import RESULTS
from bench.machine import conditions, load_average
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.service import ServiceFailed


def main(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="Of faults; a start comes before.")] = 600,
    seed: Seed = 0,
    clients: Annotated[int, typer.Option(min=1)] = 12,
    patience: Annotated[
        float, typer.Option(min=1, help="Multiplies the limits of recovery, for busy machines.")
    ] = 1.0,
    out: Out = RESULTS,
) -> None:
    """Break, check, print tables and keep the run as JSON; exit code 1 on any violation."""
    console = Console()
    effort = Effort(seconds, choose_seed(seed), clients, patience)
    console.print(f"seed {effort.seed}", highlight=False)
    load_before = load_average()
    with telling(console, ServiceFailed, NotRecovered, *FAILURES), console.status("") as status:
        # What is no terminal gets lines: a log shows how far it came.
        tell = status.update if console.is_terminal else partial(console.print, markup=False)
        found = asyncio.run(run(effort, tell))
    report = _report(effort, found, load_before)
    print_report(report, console)
    keep_run("chaos", report, out, console)
    if report.violations:
        raise typer.Exit(1)


def _report(effort: Effort, found: Found, load_before: float) -> Report:
    tally = found.tally
    return Report(
        **conditions(load_before),
        seconds=effort.seconds,
        seed=effort.seed,
        num_clients=effort.num_clients,
        patience=effort.patience,
        num_requests=tally.num_requests,
        num_ok=tally.num_ok,
        requests=tally.by_operation(),
        slowest_seconds=round(tally.slowest, 3),
        limit_seconds=LIMIT_SECONDS,
        num_answers_checked=tally.num_answers_checked,
        num_cancelled=tally.num_cancelled,
        num_records_checked=tally.num_records_checked,
        num_settled_in=tally.num_settled_in,
        num_settled_out=tally.num_settled_out,
        faults=found.struck,
        not_reached=found.not_reached,
        violations=tuple(tally.violations),
        baseline=found.baseline,
        end=found.end,
    )


if __name__ == "__main__":
    typer.run(main)
