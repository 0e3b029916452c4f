"""A run as tables."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.figures import Spread
from bench.machine import Machine
from bench.peers.figures import Comparison, Spreads


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one run. Kept as JSON."""

    taken_at: str
    machine: Machine
    core: int | None
    """That every peer was kept on."""
    load_before: float
    load_after: float
    seed: int
    comparisons: tuple[Comparison, ...]


def print_report(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(
        f"{machine.processor}, one of {machine.num_cores} cores, load {report.load_before} before "
        f"and {report.load_after} after; Python {machine.python}, {machine.commit}",
        highlight=False,
    )
    for comparison in report.comparisons:
        _print_comparison(comparison, console)


def _print_comparison(comparison: Comparison, console: Console) -> None:
    effort = comparison.effort
    console.print(
        f"\n{comparison.shape}, {comparison.dtype}, {comparison.num_image_tokens} image tokens; "
        f"medians of {comparison.num_rounds} rounds, the process's own time (the clock's)",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in (
        *("first TTFT, ms", "follow-up TTFT, ms", "TPOT, ms"),
        *(f"tok/s, {effort.num_at_once} at once", "… decoding", "computed", "same answers"),
    ):
        table.add_column(heading, justify="right")
    for peer in comparison.peers:
        table.add_row(
            peer.name,
            *(_both(each) for each in (peer.first_ttft, peer.follow_up_ttft, peer.tpot)),
            *(_both(each) for each in (peer.rate, peer.decode_rate)),
            "?" if peer.num_computed is None else f"{peer.num_computed} of {peer.num_prompt}",
            f"{peer.same_answers:.0%}",
        )
    console.print(table)
    for peer in comparison.peers:
        if peer.note:
            console.print(f"{peer.name}: {peer.note}", highlight=False, soft_wrap=True)
    for absent in comparison.absent:
        console.print(f"{absent.name}: {absent.reason}", highlight=False, soft_wrap=True)
    ratios = Table(box=None, pad_edge=False)
    for heading in ("ratio within a round", "median", "spread", "clock's", "goal", ""):
        ratios.add_column(heading)
    for ratio in comparison.ratios:
        mark = {None: "", True: "met", False: "missed"}[ratio.met]
        cpu = ratio.spreads.cpu
        clocks = f"{ratio.spreads.wall.median:.3g}"
        ratios.add_row(ratio.name, f"{cpu.median:.3g}", _range(cpu), clocks, ratio.goal, mark)
    console.print(ratios)


def _both(spreads: Spreads | None) -> str:
    if spreads is None:
        return "–"
    return f"{spreads.cpu.median:.1f} ({spreads.wall.median:.1f})"


def _range(spread: Spread) -> str:
    return f"{spread.smallest:.3g}–{spread.largest:.3g}"
