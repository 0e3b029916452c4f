"""``python -m bench.fairness``: what running streams notice of somebody who opens an image.

The engine alone, in this process, with one torch thread. Some streams about one picture decode;
then another picture is opened with a question. The gaps between the streams' tokens are taken
before, and from then until the opener has its first token. That is done once as the engine works,
and once without a limit on prompts (``VLM_PREFILL_SHARE=0``); images are encoded beside the steps
both times.

Engine and encoder share one core, and times are the processor's, of both of them: what real time
would be with the core to themselves. With more cores (``--cores``), times are real ones. The ratio
of a round is its gaps during over its gaps before, medians of both; rounds of both ways alternate.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.keep import RESULTS, moment
from bench.machine import Machine, describe_machine, load_average
from bench.measure import Clock, Quantiles
from bench.model import build_checkpoint
from bench.program import Out, Seed, choose_seed, keep_run
from bench.shapes import SHAPES
from bench.streams import Round, Streams


@dataclass(frozen=True, slots=True)
class Case:
    """So many streams, with or without the limit."""

    num_streams: int
    prefill_share: float
    ratio: Quantiles
    """Of the rounds' medians."""
    ratio_p99: float
    """Median over the rounds: 99th percentile during over that before."""
    longest_gap: float
    ttft_alone: float
    """Of an opener while nothing else runs, median."""
    ttft: Quantiles
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True)
class Report:
    taken_at: str
    machine: Machine
    load: float
    shape: str
    num_cores: int
    """That the run was allowed to use."""
    seed: int
    cases: tuple[Case, ...]


def measure(
    shape: str,
    num_streams: Sequence[int],
    num_rounds: int,
    *,
    shares: Sequence[float],
    seed: int,
    clock: Clock = time.process_time,
) -> tuple[Case, ...]:
    """So many rounds for each number of streams and each share, those of the shares alternating."""
    cases = []
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as work:
        folder = Path(work)
        build_checkpoint(SHAPES[shape], folder)
        benches = {
            share: Streams(folder, SHAPES[shape], share, seed, clock=clock) for share in shares
        }
        alone = {
            share: median([bench.open_alone() for _ in range(num_rounds + 1)][1:])
            for share, bench in benches.items()
        }
        for count in num_streams:
            rounds: dict[float, list[Round]] = {share: [] for share in shares}
            for bench in benches.values():
                bench.start_streams(count)
            for _ in range(num_rounds):
                for share, bench in benches.items():
                    rounds[share].append(bench.round())
            for share, bench in benches.items():
                bench.stop_streams()
                cases.append(_case(count, share, alone[share], rounds[share]))
    return tuple(cases)


def _case(num_streams: int, share: float, alone: float, rounds: Sequence[Round]) -> Case:
    return Case(
        num_streams=num_streams,
        prefill_share=share,
        ratio=Quantiles.of([each.ratio for each in rounds]),
        ratio_p99=median(each.during.p99 / each.before.p99 for each in rounds),
        longest_gap=max(each.during.largest for each in rounds),
        ttft_alone=alone,
        ttft=Quantiles.of([each.ttft for each in rounds]),
        rounds=tuple(rounds),
    )


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "221m",
    *,
    streams: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    share: Annotated[list[float] | None, typer.Option(help="May be repeated; 0: no limit.")] = None,
    cores: Annotated[int, typer.Option(min=1, help="More than one: in real time.")] = 1,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print the ratios and keep the run."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    clock = time.process_time if cores == 1 else time.perf_counter
    seed = choose_seed(seed)
    machine, load = describe_machine(), load_average()
    cases = measure(
        shape, streams or [1, 4, 8], rounds, shares=share or [0.5, 0.0], seed=seed, clock=clock
    )
    report = Report(moment(), machine, load, shape, cores, seed, cases)
    console = Console()
    console.print(_table(cases))
    keep_run("fairness", report, out, console)


def _table(cases: Sequence[Case]) -> Table:
    table = Table(title="An image is opened beside streams; times in ms", box=None, pad_edge=False)
    for heading in (
        *("streams", "share", "gap before, p50", "during, p50", "ratio", "from", "to"),
        *("ratio of p99", "longest gap", "first token of the opener alone", "beside"),
    ):
        table.add_column(heading, justify="right")
    for case in cases:
        table.add_row(
            str(case.num_streams),
            f"{case.prefill_share:g}" if case.prefill_share else "no limit",
            f"{median(each.before.p50 for each in case.rounds):.1f}",
            f"{median(each.during.p50 for each in case.rounds):.1f}",
            f"{case.ratio.p50:.2f}",
            f"{case.ratio.smallest:.2f}",
            f"{case.ratio.largest:.2f}",
            f"{case.ratio_p99:.2f}",
            f"{case.longest_gap:.0f}",
            f"{case.ttft_alone:.0f}",
            f"{case.ttft.p50:.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
