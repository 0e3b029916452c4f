"""``python -m bench.levels``: a follow-up's first token, by the level of the cache that it finds.

Every level has an engine of its own, whose budgets leave a conversation just there when another one
is held after it; that it is there is asked, not assumed. All engines live side by side and take
turns in every round, so that what else happens on the machine meets all levels alike.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.direct import DirectConversation
from bench.engine import EngineAlone, running_engine
from bench.figures import Spread
from bench.keep import RESULTS
from bench.machine import Conditions, conditions, load_average
from bench.model import build_checkpoint
from bench.program import Out, Seed, choose_seed, keep_run
from bench.shapes import SHAPES, Shape
from bench.workload import Workload
from vlm_sessions.engine.types import CacheLocation

NUM_WORDS = 15
"""Of a follow-up; with the template's own words about 19 tokens."""
NUM_TOKENS = 8
AMPLE_MB = 1024
MAX_COMMON_TOKENS = 8
"""What all conversations begin with, before the picture."""


@dataclass(frozen=True, slots=True)
class Level:
    """Where a conversation is when its next prompt comes."""

    name: str
    settings: Mapping[str, str]
    """Budgets that leave it there. ``{kv}``: MiB of KV that hold one conversation, not two."""
    is_there: Callable[[CacheLocation], bool]


def _has_no_kv(found: CacheLocation) -> bool:
    """Whether nothing of the conversation itself is there."""
    return found.kv_tokens <= MAX_COMMON_TOKENS


_NO_HOST = {"VLM_HOST_KV_MB": "0", "VLM_HOST_FEATURE_MB": "0"}
# The order of eviction is the plain one: the other would rather keep what costs much.
_ONE = {**_NO_HOST, "VLM_KV_CACHE_MB": "{kv}", "VLM_EVICTION": "lru"}
LEVELS = (
    Level(
        "KV on the device",
        {**_NO_HOST, "VLM_KV_CACHE_MB": str(AMPLE_MB)},
        lambda found: not _has_no_kv(found),
    ),
    Level(
        "KV on the host",
        {**_ONE, "VLM_HOST_KV_MB": str(AMPLE_MB)},
        lambda found: _has_no_kv(found) and found.host_kv_tokens > 0,
    ),
    Level(
        "features",
        {**_ONE, "VLM_FEATURE_CACHE_MB": str(AMPLE_MB)},
        lambda found: _has_no_kv(found) and bool(found.features),
    ),
    Level(
        "pixels",
        {**_ONE, "VLM_FEATURE_CACHE_MB": "0", "VLM_PIXEL_CACHE_MB": str(AMPLE_MB)},
        lambda found: _has_no_kv(found) and not found.features and bool(found.pixels),
    ),
    Level(
        "the record only",
        {**_ONE, "VLM_FEATURE_CACHE_MB": "0", "VLM_PIXEL_CACHE_MB": "0"},
        lambda found: _has_no_kv(found) and not found.features and not found.pixels,
    ),
)


@dataclass(frozen=True, slots=True)
class LevelFigures:
    name: str
    ttft: Spread
    """ms, from the prompt to its first token, the medians of the rounds."""
    ratio: Spread
    """Of each round, to the round's TTFT with KV on the device."""


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    seed: int
    shape: str
    dtype: str
    threads: int
    num_rounds: int
    levels: tuple[LevelFigures, ...]


class NotThere(RuntimeError):
    """A conversation is on another level than the one to be measured."""


async def measure(
    shape: Shape, num_rounds: int, seed: int, settings: Mapping[str, str]
) -> tuple[str, tuple[LevelFigures, ...]]:
    """dtype, and what each level costs."""
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as folder:
        build_checkpoint(shape, Path(folder))
        common = {**settings, "VLM_MODEL": folder}
        async with AsyncExitStack() as stack:
            engines = []
            for level in LEVELS:
                budgets = {
                    name: value.format(kv=_kv_mb(shape, settings["VLM_DTYPE"]))
                    for name, value in level.settings.items()
                }
                engine = await stack.enter_async_context(running_engine({**common, **budgets}))
                await _follow_up(level, engine, Workload(~seed))  # first calls allocate
                engines.append(engine)
            rounds = [
                [
                    await _follow_up(level, engine, Workload(seed + number))
                    for level, engine in zip(LEVELS, engines, strict=True)
                ]
                for number in track(range(num_rounds), "rounds")
            ]
            dtype = engines[0].info.dtype
    return dtype, tuple(
        LevelFigures(
            level.name,
            Spread.of([times[index] for times in rounds]),
            Spread.of([times[index] / times[0] for times in rounds]),
        )
        for index, level in enumerate(LEVELS)
    )


async def _follow_up(level: Level, engine: EngineAlone, workload: Workload) -> float:
    """Hold a conversation, then others, and time the first one's next token, in ms."""
    conversation = await _held(engine, workload)
    room = engine.info.num_blocks * engine.info.block_size
    num_others = 1 if level is LEVELS[0] else 2 * (1 + room // conversation.num_tokens)
    for _ in range(num_others):
        await _held(engine, workload)
    found = await conversation.locate()
    if not level.is_there(found):
        raise NotThere(f"{level.name}: the conversation is elsewhere: {found}")
    times = await conversation.ask(workload.question(NUM_WORDS), NUM_TOKENS)
    return times.ttft


async def _held(engine: EngineAlone, workload: Workload) -> DirectConversation:
    conversation = DirectConversation(engine.engine, engine.processor, workload.picture())
    await conversation.open()
    await conversation.ask(workload.question(NUM_WORDS), NUM_TOKENS)
    return conversation


def _kv_mb(shape: Shape, dtype: str) -> int:
    """MiB of KV for one conversation and a half."""
    size = 2 if dtype in ("bfloat16", "float16") else 4
    per_token = 2 * shape.text.num_layers * shape.text.hidden * size
    num_tokens = shape.num_image_tokens + 3 * (NUM_WORDS + NUM_TOKENS + 8)
    return max(1, int(1.5 * num_tokens * per_token) >> 20)


def print_report(report: Report, console: Console) -> None:
    table = Table(title=f"{report.shape}, {report.dtype}: a follow-up's first token")
    for heading in ("found", "TTFT, ms", "smallest", "largest", "÷ KV on the device"):
        table.add_column(heading, justify="left" if heading == "found" else "right")
    for level in report.levels:
        ttft = level.ttft
        times = (f"{ttft.median:.1f}", f"{ttft.smallest:.1f}", f"{ttft.largest:.1f}")
        table.add_row(level.name, *times, f"{level.ratio.median:.2f}")
    console.print(table)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "221m",
    *,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    dtype: Annotated[str, typer.Option()] = "float32",
    device: Annotated[str, typer.Option()] = "auto",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    settings = {"VLM_THREADS": str(threads), "VLM_DTYPE": dtype, "VLM_DEVICE": device}
    load_before = load_average()
    found, levels = asyncio.run(measure(SHAPES[shape], rounds, seed, settings))
    report = Report(
        **conditions(load_before),
        seed=seed,
        shape=shape,
        dtype=found,
        threads=threads,
        num_rounds=rounds,
        levels=levels,
    )
    print_report(report, console)
    keep_run("levels", report, out, console)


if __name__ == "__main__":
    typer.run(main)
