"""``python -m bench.kernels``: the kernels in C beside torch's, on the shapes of the 221 M model.

Each product is one of a weight's and a few rows, each choice one of the largest logits over a head
of 32,000 tokens, each attention one of a few queries and 620 tokens of context, over so many
weights and contexts that none is still in the processor's caches. Both are called in turn, in one
thread, and timed by the processor's time; beside them stands how long torch takes to sum the same
memory, which is about what reading it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.keep import RESULTS
from bench.machine import Conditions, conditions, load_average
from bench.program import Out, keep_run
from vlm_sessions.model.attention.piece_kernels import choose_piece_kernel
from vlm_sessions.model.attention.pieces import Kernel
from vlm_sessions.model.native.library import Library, load_library
from vlm_sessions.model.text.linear import Linear, make_linear
from vlm_sessions.model.text.screen import Screen

SHAPES = ((4096, 768), (768, 2048))
"""Gate and up of a layer, and down: ``[num_out, num_in]``."""
ROWS = (1, 4, 8, 19, 32, 64)
HEAD = (32_000, 768)
QUERIES = (1, 4, 8)
NUM_LAYERS, NUM_SESSIONS, NUM_HEADS, HEAD_DIM = 12, 8, 12, 64
CONTEXT, SLOTS = 620, 640
LEAST_BYTES = 150 * 2**20
"""Of the weights together."""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of the rounds."""

    work: str
    dtype: str
    num_rows: int
    native_ms: float
    torch_ms: float
    read_ms: float
    """Summing the same memory."""
    speedup: float
    """torch's time over ours, in the same round."""


@dataclass(frozen=True, slots=True)
class KernelReport(Conditions):
    library: str
    num_rounds: int
    results: list[Result]


def measure_products(library: Library, dtype: torch.dtype, num_rounds: int) -> list[Result]:
    results = []
    for num_out, num_in in SHAPES:
        count = -(-LEAST_BYTES // (num_out * num_in * dtype.itemsize))
        weights = [torch.randn(num_out, num_in).to(dtype) for _ in range(count)]
        ours = [make_linear(weight, None, library) for weight in weights]
        theirs = [make_linear(weight, None) for weight in weights]
        for num_rows in ROWS:
            rows = torch.randn(num_rows, num_in).to(dtype)
            results.append(
                _compare(
                    f"{num_out} x {num_in} weight",
                    dtype,
                    num_rows,
                    native=partial(_multiply, ours, rows),
                    torchs=partial(_multiply, theirs, rows),
                    read=partial(_read, weights),
                    num_rounds=num_rounds,
                )
            )
    return results


def measure_choices(library: Library, dtype: torch.dtype, num_rounds: int) -> list[Result]:
    """Of random weights: as near to each other as logits can be, so that many must be looked at."""
    num_out, num_in = HEAD
    count = -(-LEAST_BYTES // (num_out * num_in * dtype.itemsize))
    heads = [torch.randn(num_out, num_in).to(dtype) for _ in range(count)]
    screens = [Screen(head, library) for head in heads]
    products = [make_linear(head, None) for head in heads]
    return [
        _compare(
            f"greedy choice, {num_out} x {num_in} head",
            dtype,
            num_rows,
            native=partial(_choose, screens, rows),
            torchs=partial(_choose_of_all, products, rows),
            read=partial(_read, heads),
            num_rounds=num_rounds,
        )
        for num_rows in QUERIES
        for rows in [torch.randn(num_rows, num_in).to(dtype)]
    ]


def measure_attention(library: Library, dtype: torch.dtype, num_rounds: int) -> list[Result]:
    pools = [
        torch.randn(2, NUM_HEADS, NUM_SESSIONS * SLOTS, HEAD_DIM).to(dtype)
        for _ in range(NUM_LAYERS)
    ]
    contexts = [
        pool.narrow(2, number * SLOTS, CONTEXT) for pool in pools for number in range(NUM_SESSIONS)
    ]
    ours = choose_piece_kernel(dtype, HEAD_DIM, library)
    theirs = choose_piece_kernel(dtype, HEAD_DIM, None)
    results = []
    for num_rows in QUERIES:
        queries = torch.randn(NUM_HEADS, num_rows, HEAD_DIM).to(dtype)
        results.append(
            _compare(
                f"attention over {CONTEXT} tokens, {NUM_SESSIONS} x {NUM_LAYERS} layers",
                dtype,
                num_rows,
                native=partial(_attend, ours, queries, contexts),
                torchs=partial(_attend, theirs, queries, contexts),
                read=partial(_read, contexts),
                num_rounds=num_rounds,
            )
        )
    return results


def _compare(
    work: str,
    dtype: torch.dtype,
    num_rows: int,
    *,
    native: Callable[[], object],
    torchs: Callable[[], object],
    read: Callable[[], object],
    num_rounds: int,
) -> Result:
    rounds = [(_time(native), _time(torchs), _time(read)) for _ in range(num_rounds + 1)][1:]
    ours, theirs, reads = (median(column) for column in zip(*rounds, strict=True))
    speedup = median(slow / fast for fast, slow, _ in rounds)
    kind = str(dtype).removeprefix("torch.")
    return Result(work, kind, num_rows, ours, theirs, reads, speedup)


def _time(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return (time.thread_time() - started) * 1e3


def _multiply(products: Sequence[Linear], rows: torch.Tensor) -> None:
    for product in products:
        product(rows)


def _choose(screens: Sequence[Screen], rows: torch.Tensor) -> None:
    for screen in screens:
        assert screen.greedy(rows, lambda _: None) is not None


def _choose_of_all(products: Sequence[Linear], rows: torch.Tensor) -> None:
    for product in products:
        product(rows).argmax(dim=-1)


def _attend(kernel: Kernel, queries: torch.Tensor, contexts: Sequence[torch.Tensor]) -> None:
    for keys, values in contexts:
        kernel(queries, keys, values, HEAD_DIM**-0.5, False)


def _read(memory: Sequence[torch.Tensor]) -> None:
    """Of any numbers: as float32, which torch sums at the speed of memory."""
    for part in memory:
        part.view(torch.float32).sum()


def show(report: KernelReport, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("work", "dtype"):
        table.add_column(heading)
    for heading in ("rows", "ours, ms", "torch, ms", "summing, ms", "torch ÷ ours"):
        table.add_column(heading, justify="right")
    for result in report.results:
        times = (result.native_ms, result.torch_ms, result.read_ms)
        table.add_row(
            result.work,
            result.dtype,
            str(result.num_rows),
            *(f"{ms:.1f}" for ms in times),
            f"{result.speedup:.2f}",
        )
    console.print(f"Kernels for {report.library}, one thread")
    console.print(table)


def measure(library: Library, dtypes: Sequence[torch.dtype], num_rounds: int) -> list[Result]:
    results = []
    for dtype in dtypes:
        results += measure_products(library, dtype, num_rounds)
        results += measure_choices(library, dtype, num_rounds)
        results += measure_attention(library, dtype, num_rounds)
    return results


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    out: Out = RESULTS,
) -> None:
    """Measure, print, and keep the run."""
    library = load_library()
    if library is None:
        raise typer.BadParameter("The kernels are not built: see vlm-sessions doctor.")
    torch.set_num_threads(1)
    console, load_before = Console(), load_average()
    with torch.inference_mode():
        results = measure(library, (torch.float32, torch.bfloat16), rounds)
    report = KernelReport(
        **conditions(load_before),
        library=library.name,
        num_rounds=rounds,
        results=results,
    )
    show(report, console)
    keep_run("kernels", report, out, console)


if __name__ == "__main__":
    typer.run(main)
