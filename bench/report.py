"""The figures as a table for people."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.figures import Figures, Spread
from bench.machine import Machine
from bench.measure import Quantiles


@dataclass(frozen=True, slots=True)
class Report:
    """One run. ``load_before`` and ``load_after`` are load averages of a minute."""

    taken_at: str
    machine: Machine
    threads: int
    load_before: float
    load_after: float
    seed: int
    figures: tuple[Figures, ...]


def print_report(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(
        f"{machine.processor}, {machine.num_cores} cores, {machine.memory_gib:g} GiB; "
        f"{report.threads} engine thread(s); load {report.load_before} before, "
        f"{report.load_after} after; "
        + ", ".join(f"{name} {version}" for name, version in machine.versions.items())
        + f"; commit {machine.commit or 'none'}; seed {report.seed}",
        soft_wrap=True,
        highlight=False,
    )
    for figures in report.figures:
        _print_figures(figures, console)


def _print_figures(figures: Figures, console: Console) -> None:
    lengths = figures.lengths
    console.print(
        f"\n{figures.model}, {figures.dtype}: {figures.num_image_tokens} image tokens, "
        f"{lengths.num_question_words} words asked, {lengths.num_answer_tokens} tokens answered, "
        f"{figures.num_rounds} rounds",
        style="bold",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("ms", "p50", "p99", "smallest", "largest", "samples"):
        table.add_column(heading, justify="left" if heading == "ms" else "right")
    for name, values in (
        ("open (reply)", figures.open),
        ("TTFT, first prompt", figures.first_ttft),
        ("open to first token", figures.open_to_first),
        ("TTFT, follow-up", figures.follow_up_ttft),
        ("between tokens, follow-up", figures.follow_up_gap),
        ("a token, follow-up", figures.follow_up_tpot),
        ("TTFT, picture every time", figures.with_picture_ttft),
        ("a token, picture every time", figures.with_picture_tpot),
        ("TTFT, follow-up, engine alone", figures.engine_ttft),
        ("a token, engine alone", figures.engine_tpot),
    ):
        table.add_row(name, *_columns(values))
    console.print(table)
    many = figures.num_clients
    table = Table(box=None, pad_edge=False)
    for heading in ("", "median of rounds", "smallest", "largest"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, spread in (
        ("TTFT: picture every time / follow-up", figures.ttft_ratio),
        ("tokens/s, 1 session", figures.session_rate_one),
        (f"tokens/s, {many} sessions", figures.session_rate_many),
        ("tokens/s, 1 client, picture every time", figures.picture_rate_one),
        (f"tokens/s, {many} clients, picture every time", figures.picture_rate_many),
        (f"tokens/s with {many}: sessions / picture every time", figures.rate_ratio),
        ("overhead of the stack, follow-up's TTFT, ms", figures.overhead_ttft),
        ("overhead of the stack, a token, ms", figures.overhead_token),
    ):
        table.add_row(name, *_spread_columns(spread))
    console.print(table)
    console.print(
        f"{figures.follow_up_cached:.1%} of the follow-ups' prompt tokens were cached",
        highlight=False,
    )


def _columns(values: Quantiles) -> tuple[str, ...]:
    numbers = (values.p50, values.p99, values.smallest, values.largest)
    return (*(f"{number:.2f}" for number in numbers), str(values.num_samples))


def _spread_columns(spread: Spread) -> tuple[str, ...]:
    return tuple(f"{number:.2f}" for number in (spread.median, spread.smallest, spread.largest))
