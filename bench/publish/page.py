"""The page: what is kept of each benchmark, in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.keep import RESULTS
from bench.publish import crowds, engine, service
from bench.publish.kept import Kept, newest
from bench.publish.markdown import paragraph

Section = Callable[[Kept], str]

GENERATED = "<!-- Written by `make bench-report` from bench/results. -->"
INTRODUCTION = (
    """What a session saves, what the service costs, and how it stands beside others. Every number
    comes from a program under `bench/` that anyone can run again, and from a file in
    `bench/results`, linked beside it with its machine.""",
    """**Words.** TTFT: from sending a prompt to its first token. ITL: the gaps between tokens.
    TPOT: (end − first token) / (tokens − 1). A follow-up is a prompt of a session whose picture and
    turns are cached.""",
    """**Method.** The machines are shared and noisy, so what is compared runs side by side, in
    turn, in one command; reported are medians of several rounds and their spread, and ratios rather
    than times. Weights are random in the shape that is named, answers have a fixed length, pictures
    and questions differ from round to round, so that no figure is the cache's by accident.""",
)
NO_GPU = """**GPUs.** Not yet measured: no run of `python -m bench.gpu` is kept, which measures
    all of a GPU's figures in one call."""

# benchmark -> its section
SECTIONS: dict[str, Section] = {
    "levels": engine.levels,
    "peers": engine.peers,
    "serve": service.serve,
    "concurrency": crowds.concurrency,
    "sessions": crowds.sessions,
    "decode": engine.decode,
    "bookkeeping": engine.bookkeeping,
    "kernels": engine.kernels,
    "fairness": engine.fairness,
    "eviction": engine.eviction,
    "router": service.router,
    "memory": service.memory,
    "image": service.image,
}


def performance_page(folder: Path = RESULTS) -> str:
    """docs/performance.md, from the runs in ``folder``. Benchmarks without a run are left out."""
    sections = [
        write(kept)
        for name, write in SECTIONS.items()
        if (kept := newest(name, folder)) is not None
    ]
    introduction = INTRODUCTION if newest("gpu", folder) else (*INTRODUCTION, NO_GPU)
    head = "\n\n".join(["# Performance", GENERATED, *map(paragraph, introduction)])
    return "\n".join([head + "\n", *sections])
