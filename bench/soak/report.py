"""The figures of a run, kept and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.load.arrivals import Habits
from bench.load.levels import Level
from bench.load.outcomes import Limits
from bench.machine import Conditions
from bench.soak.flat import Trend
from bench.soak.samples import Sample


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """One run."""

    seed: int
    settings: Mapping[str, str]
    habits: Habits
    rate: float
    """Questions a second, on average."""
    limits: Limits
    minutes: float
    minutes_before: float
    """Of them, those that do not count: caches fill, Java compiles."""
    samples: tuple[Sample, ...]
    levels: tuple[Level, ...]
    """One for each stretch between two samples."""
    num_failed: int
    """Questions that ended neither with an answer nor with 429."""
    trends: Mapping[str, Trend]
    verdicts: Mapping[str, bool]


def print_report(report: Report, console: Console) -> None:
    machine = report.machine
    num_due = sum(level.num_due for level in report.levels)
    num_good = sum(level.num_good for level in report.levels)
    num_refused = sum(level.num_refused for level in report.levels)
    console.print(
        f"{machine.processor}, {machine.num_cores} cores; load {report.load_before} before, "
        f"{report.load_after} after; commit {machine.commit or 'none'}; seed {report.seed}\n"
        f"{report.minutes:g} minutes at {report.rate:g} questions a second, the first "
        f"{report.minutes_before:g} not counted: {num_due:,} due, {num_good:,} good, "
        f"{num_refused:,} refused, {report.num_failed:,} failed",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, title="Growth over the run, by Theil's and Sen's slope")
    table.add_column("")
    for heading in ("median", "growth", "allowed", ""):
        table.add_column(heading, justify="right")
    for name, trend in report.trends.items():
        table.add_row(
            name,
            f"{trend.median:.1f}",
            f"{trend.growth:+.1f}",
            f"{trend.margin:.1f}",
            "flat" if trend.is_flat else "[red]GROWS[/red]",
        )
    console.print(table)
    for name, is_met in report.verdicts.items():
        console.print(f"{'met   ' if is_met else 'MISSED'} {name}", style="" if is_met else "red")
