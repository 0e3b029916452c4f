"""The levels of the engine's cache, one beside the other: each figure has the level as its label.

kv_device, kv_host              entries are KV blocks, hits are prompt tokens
features_device, features_host  entries and hits are images
pixels                          the same
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vlm_sessions.metrics.figures import EngineFigures

Read = Callable[[EngineFigures], float]

_GAUGES: dict[str, tuple[str, dict[str, Read]]] = {
    "vlm_cache_bytes": (
        "Memory that a level of the cache uses.",
        {
            "kv_device": lambda e: e.kv_bytes,
            "kv_host": lambda e: e.host_kv_bytes,
            "features_device": lambda e: e.feature_bytes,
            "features_host": lambda e: e.host_feature_bytes,
            "pixels": lambda e: e.pixel_bytes,
        },
    ),
    "vlm_cache_capacity_bytes": (
        "Memory that a level of the cache may use.",
        {
            "kv_device": lambda e: e.kv_capacity_bytes,
            "kv_host": lambda e: e.host_kv_capacity_bytes,
            "features_device": lambda e: e.feature_capacity_bytes,
            "features_host": lambda e: e.host_feature_capacity_bytes,
            "pixels": lambda e: e.pixel_capacity_bytes,
        },
    ),
    "vlm_cache_entries": (
        "KV blocks or images in a level of the cache.",
        {
            "kv_device": lambda e: e.blocks_in_use + e.blocks_cached,
            "kv_host": lambda e: e.host_blocks_stored,
            "features_device": lambda e: e.features_cached,
            "features_host": lambda e: e.host_features_stored,
            "pixels": lambda e: e.pixels_cached,
        },
    ),
}

_COUNTERS: dict[str, tuple[str, dict[str, Read]]] = {
    "vlm_cache_hits": (
        "Prompt tokens (KV) or images that a turn found in a level of the cache.",
        {
            "kv_device": lambda e: e.cached_tokens_total - e.host_tokens_total,
            "kv_host": lambda e: e.host_tokens_total,
            "features_device": lambda e: e.feature_hits_total,
            "features_host": lambda e: e.host_features_restored_total,
            "pixels": lambda e: e.pixel_hits_total,
        },
    ),
    "vlm_cache_evictions": (
        "KV blocks or images that left a level of the cache to make room.",
        {
            "kv_device": lambda e: e.blocks_evicted_total,
            "kv_host": lambda e: e.host_blocks_evicted_total,
            "features_device": lambda e: e.features_evicted_total,
            "features_host": lambda e: e.host_features_evicted_total,
            "pixels": lambda e: e.pixels_evicted_total,
        },
    ),
    "vlm_cache_restores": (
        "KV blocks or images brought back from the host to the device.",
        {
            "kv_host": lambda e: e.host_blocks_loaded_total,
            "features_host": lambda e: e.host_features_restored_total,
        },
    ),
    "vlm_cache_restore_seconds": (
        "Time that bringing KV blocks back has taken, beside other work.",
        {"kv_host": lambda e: e.host_load_seconds_total},
    ),
}


def level_families(figures: EngineFigures) -> Iterator[Metric]:
    """Every figure of every level."""
    for name, (text, levels) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=("level",))
        for level, read in levels.items():
            gauge.add_metric((level,), read(figures))
        yield gauge
    for name, (text, levels) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=("level",))
        for level, read in levels.items():
            counter.add_metric((level,), read(figures))
        yield counter
