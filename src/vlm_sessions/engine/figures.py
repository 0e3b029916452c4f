"""The engine's figures, gathered from those who keep them."""

from __future__ import annotations

from vlm_sessions.engine.caches import Caches
from vlm_sessions.engine.reports import Reports
from vlm_sessions.engine.turns import Turns
from vlm_sessions.engine.types import EngineStats


def engine_stats(caches: Caches, turns: Turns, reports: Reports) -> EngineStats:
    """Gauges of this moment, and counters since the engine started."""
    pool, images = caches.pool, caches.images
    host, features, pixels = pool.host, images.features, images.pixels
    return EngineStats(
        running=len(turns.running),
        waiting=len(turns) - len(turns.running),
        blocks_total=pool.num_blocks,
        blocks_in_use=pool.num_in_use,
        blocks_cached=pool.num_cached,
        blocks_retained=pool.count_retained(),
        kv_capacity_bytes=pool.num_blocks * pool.block_bytes,
        kv_bytes=(pool.num_in_use + pool.num_cached) * pool.block_bytes,
        host_blocks_total=host.num_slots,
        host_blocks_stored=host.num_stored,
        host_kv_capacity_bytes=host.num_slots * pool.block_bytes,
        host_kv_bytes=host.num_stored * pool.block_bytes,
        features_cached=len(features),
        feature_capacity_bytes=features.budget_bytes,
        feature_bytes=features.num_bytes,
        host_features_stored=features.num_stored,
        host_feature_capacity_bytes=features.host_budget_bytes,
        host_feature_bytes=features.num_stored_bytes,
        pixels_cached=len(pixels),
        pixel_capacity_bytes=pixels.budget_bytes,
        pixel_bytes=pixels.num_bytes,
        steps_total=reports.num_steps,
        prompt_tokens_total=reports.num_prompt_tokens,
        cached_tokens_total=reports.num_cached_tokens,
        generated_tokens_total=reports.num_generated_tokens,
        images_encoded_total=images.encoding.num_encoded,
        feature_hits_total=images.num_hits,
        features_evicted_total=features.num_evicted,
        host_features_restored_total=features.num_restored,
        host_features_evicted_total=features.num_host_evicted,
        pixel_hits_total=pixels.num_hits,
        pixels_evicted_total=pixels.num_evicted,
        blocks_evicted_total=pool.num_evicted,
        blocks_copied_total=pool.moves.num_copied,
        host_blocks_stored_total=host.num_stored_total,
        host_blocks_loaded_total=host.num_loaded_total,
        host_blocks_evicted_total=host.num_evicted_total,
        host_tokens_total=reports.num_host_tokens,
        host_load_seconds_total=reports.load_seconds,
        preemptions_total=reports.num_preemptions,
    )
