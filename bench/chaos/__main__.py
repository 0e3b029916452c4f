"""``python -m bench.chaos``: break a running service by a seeded schedule, under mixed traffic, and
check after every fault that nothing was lost, nothing hangs, and nothing leaks.

What is done, in which order, and what each client chooses follow from the seed; how it falls
together in time does not.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.chaos.report import Report, print_report
from bench.chaos.run import LIMIT_SECONDS, Effort, Found, run
from bench.chaos.stack import NotRecovered
from bench.chaos.traffic import FAILURES
from bench.keep import RESULTS, keep, moment
from bench.machine import describe_machine, load_average
from bench.service import ServiceFailed


def main(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="Of faults; a start comes before.")] = 600,
    seed: Annotated[int, typer.Option(help="0: another one each time.")] = 0,
    clients: Annotated[int, typer.Option(min=1)] = 12,
    patience: Annotated[
        float, typer.Option(min=1, help="Multiplies the limits of recovery, for busy machines.")
    ] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Break, check, print tables and keep the run as JSON; exit code 1 on any violation."""
    console = Console()
    effort = Effort(seconds, seed or random.SystemRandom().getrandbits(31), clients, patience)
    console.print(f"seed {effort.seed}", highlight=False)
    load_before = load_average()
    try:
        with console.status("") as status:
            # What is no terminal gets lines: a log shows how far it came.
            tell = status.update if console.is_terminal else partial(console.print, markup=False)
            found = asyncio.run(run(effort, tell))
    except (ServiceFailed, NotRecovered, *FAILURES) as exc:
        console.print(f"{type(exc).__name__}: {exc}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from exc
    report = _report(effort, found, load_before)
    print_report(report, console)
    console.print(f"kept in {keep('chaos', report, out)}", highlight=False, soft_wrap=True)
    if report.violations:
        raise typer.Exit(1)


def _report(effort: Effort, found: Found, load_before: float) -> Report:
    tally = found.tally
    return Report(
        taken_at=moment(),
        machine=describe_machine(),
        load_before=load_before,
        load_after=load_average(),
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
