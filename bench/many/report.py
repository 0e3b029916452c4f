"""The figures of a run, kept and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.machine import Conditions
from bench.many.asking import Checked
from bench.measure import Quantiles
from bench.processes import Usage

MAX_RATIO = 1.5
"""Of a median with most sessions open to that with the fewest: what is constant in time varies so
much on a machine that others use."""


@dataclass(frozen=True, slots=True)
class Look:
    """With so many sessions open. Sizes in MiB."""

    num_sessions: int
    times: Mapping[str, Quantiles]
    """Milliseconds, by what is done."""
    processes: Mapping[str, Usage]
    kv: float
    features: float
    state: float

    @property
    def memory(self) -> float:
        """Of all processes together, MiB."""
        return sum(usage.own for usage in self.processes.values())


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """One run."""

    seed: int
    settings: Mapping[str, str]
    budget_mib: float
    num_rounds: int
    num_requests: int
    """Of each kind, at each size, in each round."""
    looks: tuple[Look, ...]
    ratios: Mapping[str, float]
    """Medians with all sessions open by those with the fewest."""
    checked: Checked
    verdicts: Mapping[str, bool]


def ratios_of(looks: tuple[Look, ...]) -> dict[str, float]:
    first, last = looks[0].times, looks[-1].times
    return {name: last[name].p50 / first[name].p50 for name in first}


def verdicts_of(looks: tuple[Look, ...], checked: Checked, budget_mib: float) -> dict[str, bool]:
    return {
        f"all processes together stay within {budget_mib:g} MiB": looks[-1].memory <= budget_mib,
        "every session that was asked answers as a fresh one": not checked.num_wrong,
        **{
            f"{name} takes at most {MAX_RATIO:g} times what it did": ratio <= MAX_RATIO
            for name, ratio in ratios_of(looks).items()
        },
    }


def print_report(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(
        f"{machine.processor}, {machine.num_cores} cores; load {report.load_before} before, "
        f"{report.load_after} after; commit {machine.commit or 'none'}; seed {report.seed}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(_times(report))
    console.print(_memory(report))
    checked = report.checked
    console.print(
        f"asked {checked.num_asked:,}, wrong {checked.num_wrong}; an answer p50 "
        f"{checked.answer.p50:.0f} ms, p99 {checked.answer.p99:.0f} ms",
        highlight=False,
    )
    for name, is_met in report.verdicts.items():
        console.print(f"{'met   ' if is_met else 'MISSED'} {name}", style="" if is_met else "red")


def _times(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, title="ms, p50 / p95")
    table.add_column("")
    for look in report.looks:
        table.add_column(f"{look.num_sessions:,}", justify="right")
    table.add_column("ratio", justify="right")
    for name, ratio in report.ratios.items():
        values = [look.times[name] for look in report.looks]
        table.add_row(name, *map(_pair, values), f"{ratio:.2f}")
    return table


def _memory(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, title="MiB that each process has to itself")
    names = list(report.looks[0].processes)
    for heading in ("sessions", *names, "together", "KV", "features", "state"):
        table.add_column(heading, justify="right")
    for look in report.looks:
        table.add_row(
            f"{look.num_sessions:,}",
            *(f"{look.processes[name].own:.0f}" for name in names),
            f"{look.memory:.0f}",
            f"{look.kv:.0f}",
            f"{look.features:.0f}",
            f"{look.state:.0f}",
        )
    return table


def _pair(values: Quantiles) -> str:
    return f"{values.p50:.2f} / {values.p95:.2f}"
