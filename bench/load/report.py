"""The figures of a run, kept and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.load.arrivals import Habits
from bench.load.levels import Level
from bench.load.outcomes import Limits
from bench.load.overload import Overload
from bench.machine import Conditions
from bench.measure import Quantiles

MAX_LATENESS_MS = 20.0
"""p99 of the generator's own lateness above which a run says little of the service."""


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """One run."""

    seed: int
    settings: Mapping[str, str]
    """Of the service, where they are not the defaults."""
    habits: Habits
    limits: Limits
    levels: tuple[Level, ...]
    knee: Level | None
    is_found: bool
    """Whether the knee was, or the highest rate that was allowed was still held."""
    overload: Overload | None
    verdicts: Mapping[str, bool]


def print_report(report: Report, console: Console) -> None:
    machine, limits, habits = report.machine, report.limits, report.habits
    console.print(
        f"{machine.processor}, {machine.num_cores} cores; load {report.load_before} before, "
        f"{report.load_after} after; commit {machine.commit or 'none'}; seed {report.seed}\n"
        f"{habits.num_turns} questions a session, {habits.think_seconds:g} s between them, "
        f"{habits.num_answer_tokens} tokens an answer; good: first token within "
        f"{1e3 * limits.ttft_seconds:g} ms, then one every {1e3 * limits.gap_seconds:g} ms",
        soft_wrap=True,
        highlight=False,
    )
    rows = [(f"{level.rate:.1f}", level) for level in report.levels]
    if report.overload is not None:
        overload = report.overload
        rows += [
            (f"{overload.factor:g} × knee: {overload.burst.rate:.1f}", overload.burst),
            ("the second after its line", overload.first),
            (f"then {overload.calm.rate:.1f}", overload.calm),
        ]
    console.print(_table(rows))
    if report.knee is None:
        console.print("Not even the first rate was held: begin with a lower one.", style="red")
    else:
        found = "knee" if report.is_found else "no knee up to"
        console.print(
            f"{found}: {report.knee.rate:.1f} turns/s, of which {report.knee.goodput:.1f} good",
            highlight=False,
        )
    if report.overload is not None:
        console.print(
            f"goodput beyond it: {report.overload.kept:.0%} of the knee's; "
            f"{report.overload.refused_in_time:.1%} of the refusals in time",
            highlight=False,
        )
    for name, is_met in report.verdicts.items():
        console.print(f"{'met   ' if is_met else 'MISSED'} {name}", style="" if is_met else "red")


def _table(rows: list[tuple[str, Level]]) -> Table:
    table = Table(box=None, pad_edge=False, title="Rates in turns a second, times in ms")
    for heading in (
        *("rate", "due", "good", "goodput", "refused", "failed", "TTFT p50", "p99", "gap p50"),
        *("p99", "refusal p50", "p99", "late p99"),
    ):
        table.add_column(heading, justify="right")
    for name, level in rows:
        table.add_row(
            name,
            str(level.num_due),
            f"{level.good_share:.0%}",
            f"{level.goodput:.1f}",
            str(level.num_refused),
            str(level.num_failed),
            *_p50_p99(level.ttft),
            *_p50_p99(level.gap),
            *_p50_p99(level.refusal),
            _p50_p99(level.lateness)[1],
        )
    return table


def _p50_p99(values: Quantiles | None) -> tuple[str, str]:
    return ("–", "–") if values is None else (f"{values.p50:.0f}", f"{values.p99:.0f}")
