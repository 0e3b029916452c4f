"""Which of the engine's figures are told, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlm_sessions.metrics.figures import EngineFigures
from vlm_sessions.metrics.levels import level_families


@dataclass(frozen=True, slots=True)
class Figure:
    """A name, what it says, and where it is read."""

    name: str
    help: str
    read: Callable[[EngineFigures], int]


_GAUGES = (
    Figure("vlm_engine_running_turns", "Turns being computed.", lambda e: e.running),
    Figure("vlm_engine_waiting_turns", "Turns waiting for the engine.", lambda e: e.waiting),
    Figure("vlm_kv_blocks_capacity", "KV blocks in the pool.", lambda e: e.blocks_total),
    Figure(
        "vlm_kv_blocks_in_use", "KV blocks referenced by running turns.", lambda e: e.blocks_in_use
    ),
    Figure(
        "vlm_kv_blocks_cached",
        "KV blocks with a reusable prefix, referenced by no running turn.",
        lambda e: e.blocks_cached,
    ),
    Figure(
        "vlm_kv_blocks_retained",
        "Cached KV blocks kept for an open session.",
        lambda e: e.blocks_retained,
    ),
    Figure(
        "vlm_feature_cache_images", "Images whose features are kept.", lambda e: e.features_cached
    ),
    Figure("vlm_feature_cache_bytes", "Bytes of image features kept.", lambda e: e.feature_bytes),
    Figure("vlm_pixel_cache_images", "Images whose pixels are kept.", lambda e: e.pixels_cached),
    Figure("vlm_pixel_cache_bytes", "Bytes of pixel tensors kept.", lambda e: e.pixel_bytes),
)

# Since the engine process started: a restart sets them to zero, as Prometheus expects of counters.
_COUNTERS = (
    Figure("vlm_engine_steps", "Steps of the engine.", lambda e: e.steps_total),
    Figure(
        "vlm_engine_prompt_tokens", "Prompt tokens of all turns.", lambda e: e.prompt_tokens_total
    ),
    Figure(
        "vlm_engine_cached_tokens",
        "Prompt tokens found in KV blocks and not computed.",
        lambda e: e.cached_tokens_total,
    ),
    Figure("vlm_engine_generated_tokens", "Tokens sampled.", lambda e: e.generated_tokens_total),
    Figure(
        "vlm_engine_images_encoded",
        "Images run through the vision tower.",
        lambda e: e.images_encoded_total,
    ),
    Figure(
        "vlm_engine_feature_hits",
        "Images whose features were found rather than computed.",
        lambda e: e.feature_hits_total,
    ),
    Figure(
        "vlm_engine_blocks_evicted", "KV blocks evicted for room.", lambda e: e.blocks_evicted_total
    ),
    Figure(
        "vlm_engine_blocks_copied",
        "KV blocks copied, of which only a part could be reused.",
        lambda e: e.blocks_copied_total,
    ),
    Figure(
        "vlm_engine_preemptions",
        "Turns set back to make room for others.",
        lambda e: e.preemptions_total,
    ),
    Figure("vlm_engine_restarts", "Engine processes replaced.", lambda e: e.restarts_total),
)


class EngineCollector(Collector):
    """Passes on the figures that it was last given; none until then."""

    def __init__(self) -> None:
        self.figures: EngineFigures | None = None

    def collect(self) -> Iterator[Metric]:
        if self.figures is None:
            return
        for figure in _GAUGES:
            yield GaugeMetricFamily(figure.name, figure.help, value=figure.read(self.figures))
        for figure in _COUNTERS:
            yield CounterMetricFamily(figure.name, figure.help, value=figure.read(self.figures))
        yield from level_families(self.figures)
