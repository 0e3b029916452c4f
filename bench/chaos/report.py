"""What is kept of a run, and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.chaos.faults.base import Fault, Recovery
from bench.chaos.leaks import Footprint
from bench.machine import Conditions

MAX_SHOWN = 20
"""Violations that are printed; all are kept."""


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault that was done. Seconds are as in ``Recovery``; ``limit`` is what is promised."""

    fault: str
    seconds: float
    load_seconds: float
    judged_seconds: float
    limit: float | None
    note: str
    num_requests: int
    """That ended during it."""

    @classmethod
    def of(cls, fault: Fault, recovery: Recovery, num_requests: int) -> Struck:
        return cls(
            fault=fault.name,
            seconds=round(recovery.seconds, 3),
            load_seconds=round(recovery.load_seconds, 3),
            judged_seconds=round(recovery.judged_seconds, 3),
            limit=fault.limit,
            note=recovery.note,
            num_requests=num_requests,
        )


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """One run."""

    seconds: float
    seed: int
    num_clients: int
    patience: float
    """What the limits of recovery were multiplied with."""
    num_requests: int
    num_ok: int
    """Of those: ended as if nothing were wrong."""
    requests: Mapping[str, Mapping[str, int]]
    """operation -> how it ended -> requests"""
    slowest_seconds: float
    """That a request took, however it ended."""
    limit_seconds: float
    """That a request may take."""
    num_answers_checked: int
    num_cancelled: int
    num_records_checked: int
    num_settled_in: int
    num_settled_out: int
    faults: tuple[Struck, ...]
    not_reached: tuple[str, ...]
    violations: tuple[str, ...]
    baseline: Footprint
    end: Footprint | None


def print_report(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(
        f"{machine.processor}, {machine.num_cores} cores; load {report.load_before} before, "
        f"{report.load_after} after; commit {machine.commit or 'none'}; seed {report.seed}; "
        f"{report.num_clients} clients",
        soft_wrap=True,
        highlight=False,
    )
    console.print(_faults(report.faults))
    console.print(_requests(report.requests))
    if report.end is not None:
        console.print(_footprints(report.baseline, report.end))
    for name in report.not_reached:
        console.print(f"not reached in time: {name}", style="yellow")
    console.print(
        f"{len(report.faults)} faults of {len({each.fault for each in report.faults})} kinds, "
        f"{report.num_requests} requests of which {report.num_ok} ended well, the slowest after "
        f"{report.slowest_seconds:.1f} s (limit {report.limit_seconds:g} s), "
        f"{report.num_answers_checked} answers ({report.num_cancelled} cancelled) and "
        f"{report.num_records_checked} records compared; of the changes whose end nobody was told, "
        f"{report.num_settled_in} had happened and {report.num_settled_out} had not",
        soft_wrap=True,
        highlight=False,
    )
    for violation in report.violations[:MAX_SHOWN]:
        console.print(violation, style="red", soft_wrap=True, markup=False, highlight=False)
    style = "bold red" if report.violations else "bold green"
    console.print(f"{len(report.violations)} violations", style=style)


def _faults(faults: Iterable[Struck]) -> Table:
    kinds: dict[str, list[Struck]] = {}
    for each in faults:
        kinds.setdefault(each.fault, []).append(each)
    table = Table(box=None, pad_edge=False, title="Faults; seconds until it served again")
    for heading in ("fault", "times", "median", "largest", "beyond load", "limit", "requests"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name, struck in kinds.items():
        limit = struck[0].limit
        table.add_row(
            name,
            str(len(struck)),
            f"{median(each.seconds for each in struck):.2f}",
            f"{max(each.seconds for each in struck):.2f}",
            f"{max(each.judged_seconds for each in struck):.2f}",
            "" if limit is None else f"{limit:g}",
            str(sum(each.num_requests for each in struck)),
        )
    return table


def _requests(requests: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(box=None, pad_edge=False, title="Requests by how they ended")
    ends: Sequence[str] = sorted({end for counts in requests.values() for end in counts})
    table.add_column("")
    for end in ends:
        table.add_column(end, justify="right")
    for operation, counts in requests.items():
        table.add_row(operation, *(str(counts.get(end, "")) for end in ends))
    return table


def _footprints(before: Footprint, after: Footprint) -> Table:
    table = Table(box=None, pad_edge=False, title="With all sessions closed: before and after")
    for heading in ("", "MiB", "", "open files", "", "threads", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for role, was in before.processes.items():
        has = after.processes.get(role)
        if has is not None:
            pairs = (
                (was.memory_mib, has.memory_mib),
                (was.num_files, has.num_files),
                (was.num_threads, has.num_threads),
            )
            table.add_row(role, *(f"{value:g}" for pair in pairs for value in pair))
    table.add_row("Java's objects", f"{before.heap_mib:g}", f"{after.heap_mib:g}")
    return table
