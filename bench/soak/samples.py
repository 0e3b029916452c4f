"""What is looked at every half a minute, and how much of it may grow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load.levels import Level
from bench.machine import load_average
from bench.metrics import read_metrics
from bench.processes import MIB, Usage, look_at_all, state_bytes
from bench.soak.flat import Margin, Trend, trend_of

# figure -> metrics whose sum it is
_FIGURES: Mapping[str, tuple[str, ...]] = {
    "open sessions": ("vlm_open_sessions",),
    "KV blocks in use or cached": ("vlm_kv_blocks_in_use", "vlm_kv_blocks_cached"),
    "KV blocks retained": ("vlm_kv_blocks_retained",),
    "images with features": ("vlm_feature_cache_images",),
    "images with pixels": ("vlm_pixel_cache_images",),
}
MEMORY = Margin(absolute=16.0, share=0.05)
"""MiB."""
JAVA_MEMORY = Margin(absolute=16.0, share=0.15)
"""Its heap is emptied when it is full, not sooner."""
DESCRIPTORS = Margin(absolute=5.0, share=0.1)
THREADS = Margin(absolute=2.0)
LATENCY = Margin(absolute=20.0, share=0.25)
"""ms; on a machine that others use."""
CACHE = Margin(absolute=8.0, share=0.1)
FIRST_TOKEN = "first token"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look, ``at`` seconds after the start."""

    at: float
    processes: Mapping[str, Usage]
    figures: Mapping[str, float]
    state_mib: float
    load: float
    """Load average of the last minute."""


async def take_sample(at: float, url: str, state: Path) -> Sample:
    metrics = await read_metrics(url)
    return Sample(
        at=at,
        processes=look_at_all(url),
        figures={name: sum(metrics[part] for part in parts) for name, parts in _FIGURES.items()},
        state_mib=state_bytes(state) / MIB,
        load=load_average(),
    )


def trends_of(samples: Sequence[Sample], levels: Sequence[Level]) -> dict[str, Trend]:
    """Of everything that was looked at, and of the first tokens' times."""
    times = [sample.at for sample in samples]

    def trend(values: Iterable[float], margin: Margin) -> Trend:
        return trend_of(times, list(values), margin)

    trends: dict[str, Trend] = {}
    for name in samples[0].processes:
        usages = [sample.processes[name] for sample in samples]
        memory = JAVA_MEMORY if name == "TorchServe" else MEMORY
        trends[f"{name}, own MiB"] = trend((usage.own for usage in usages), memory)
        trends[f"{name}, resident MiB"] = trend((usage.resident for usage in usages), memory)
        trends[f"{name}, descriptors"] = trend(
            (usage.num_descriptors for usage in usages), DESCRIPTORS
        )
        trends[f"{name}, threads"] = trend((usage.num_threads for usage in usages), THREADS)
    for name in _FIGURES:
        trends[name] = trend((sample.figures[name] for sample in samples), CACHE)
    trends["state, MiB"] = trend((sample.state_mib for sample in samples), MEMORY)
    ends = [number * level.seconds for number, level in enumerate(levels)]
    for name in ("p50", "p95"):
        values = [getattr(level.ttft, name) for level in levels if level.ttft is not None]
        trends[f"{FIRST_TOKEN}, {name}, ms"] = trend_of(ends[: len(values)], values, LATENCY)
    return trends


def verdicts_of(trends: Mapping[str, Trend]) -> dict[str, bool]:
    """What does not depend on who else uses the machine, and what does."""
    return {
        "memory, descriptors, threads, caches and journal are flat": all(
            trend.is_flat for name, trend in trends.items() if not name.startswith(FIRST_TOKEN)
        ),
        "times to first tokens are flat": all(
            trend.is_flat for name, trend in trends.items() if name.startswith(FIRST_TOKEN)
        ),
    }
