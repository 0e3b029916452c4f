"""Sizes by themselves: how many KV blocks there are, and a table of what memory went where.

On a GPU the engine may take a share of the memory. What the weights, the other caches and the
largest step that can come (tried once, before there are any blocks) leave of it is for KV blocks.
On a CPU, where others live too, they get a part of what is free. Either is overruled by a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.device_memory import DeviceMemory, memory_of
from vlm_sessions.model.kv_cache import KVShape

MIB = 1 << 20
HOST_SHARE = 0.25
"""Of the free memory of a machine without a GPU, for KV blocks."""
HOST_MOST = 4096 * MIB
"""Of it at most; more only if it is asked for."""
GRAPH_RESERVE = 512 * MIB
"""For CUDA graphs, which take memory of their own, and what libraries allocate later."""
TEXT_TOKENS = 74
"""Beside its image, in the session that the table counts in: 650 tokens on LLaVA-1.5."""


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """What memory went where, in bytes. ``None``: not measured on this device."""

    device: str
    capacity: int
    weights: int
    kv_blocks: int
    kv_tokens: int
    kv_sessions: int
    """Of one image and ``TEXT_TOKENS`` each, were none to share anything."""
    features: int
    pixels: int
    """On the host, whatever the device."""
    activations: int | None
    """Peak of the largest step."""
    free: int
    """What nobody has after all this."""
    host_kv: int = 0
    host_features: int = 0

    def with_host(self, *, kv: int, features: int) -> MemoryTable:
        """The table with what the host keeps for the device, which on a CPU is the same memory."""
        taken = kv + features if self.device == "cpu" else 0
        free = max(0, self.free - taken)
        return replace(self, host_kv=kv, host_features=features, free=free)

    def fields(self) -> dict[str, str | int | None]:
        """For a log line; memory in MiB."""
        mib = {
            "capacity_mib": self.capacity,
            "weights_mib": self.weights,
            "kv_blocks_mib": self.kv_blocks,
            "features_mib": self.features,
            "pixels_mib": self.pixels,
            "host_kv_mib": self.host_kv,
            "host_features_mib": self.host_features,
            "activations_mib": self.activations,
            "free_mib": self.free,
        }
        return {
            "device": self.device,
            "kv_tokens": self.kv_tokens,
            "kv_sessions": self.kv_sessions,
            **{name: None if size is None else size // MIB for name, size in mib.items()},
        }


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    num_blocks: int
    table: MemoryTable


def plan_memory(
    settings: Settings,
    shape: KVShape,
    *,
    device: torch.device,
    weights: int,
    max_context: int,
    image_tokens: int,
    largest_step: Callable[[], None],
    memory: DeviceMemory | None = None,
) -> MemoryPlan:
    """Decide how many KV blocks there are. Called once the weights are on the device.

    Args:
        weights: bytes of the model.
        max_context: of one conversation, in tokens.
        image_tokens: of one image.
        largest_step: does the largest step that can come, with as few blocks as it needs.
        memory: of the device; by default what the device says.

    Raises:
        ConfigError: not even one block fits.
    """
    memory = memory or memory_of(device)
    activations = memory.peak_of(largest_step)
    features = settings.feature_cache_mb * MIB
    capacity, free = memory.capacity(), memory.free()
    if settings.kv_cache_mb:
        budget = settings.kv_cache_mb * MIB
    elif device.type == "cuda":
        spared = int(capacity * (1 - settings.memory_share))
        budget = free - spared - features - (activations or 0) - GRAPH_RESERVE
    else:
        budget = min(int(free * HOST_SHARE), HOST_MOST)
    num_blocks = count_blocks(
        shape, block_size=settings.block_size, budget=budget, max_context=max_context
    )
    tokens = num_blocks * settings.block_size
    kv_blocks = tokens * shape.bytes_per_token
    pixels = settings.pixel_cache_mb * MIB
    taken = kv_blocks + features + (activations or 0) + (pixels if device.type == "cpu" else 0)
    table = MemoryTable(
        device=str(device),
        capacity=capacity,
        weights=weights,
        kv_blocks=kv_blocks,
        kv_tokens=tokens,
        kv_sessions=tokens // (image_tokens + TEXT_TOKENS),
        features=features,
        pixels=pixels,
        activations=activations,
        free=max(0, free - taken),
    )
    return MemoryPlan(num_blocks, table)


def count_blocks(shape: KVShape, *, block_size: int, budget: int, max_context: int) -> int:
    """How many blocks of ``block_size`` tokens fit ``budget`` bytes.

    Raises:
        ConfigError: not even one does.
    """
    num_blocks = budget // (block_size * shape.bytes_per_token)
    if num_blocks < 1:
        raise ConfigError(
            f"{max(0, budget) // MIB} MiB hold no KV block of {block_size} tokens, "
            f"{shape.bytes_per_token} bytes each. Raise VLM_KV_CACHE_MB; one whole context of "
            f"{max_context} tokens needs {-(-max_context * shape.bytes_per_token // MIB)} MiB."
        )
    return num_blocks


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of all of them together; those that share memory (tied weights) are counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
