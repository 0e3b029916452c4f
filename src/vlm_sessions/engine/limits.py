"""What an engine may use: the part of its configuration that its scheduler needs."""

from __future__ import annotations

import msgspec

from vlm_sessions.engine.eviction import Eviction


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one engine. The block pool's size comes from the runner, which allocates it."""

    max_batch_tokens: int = 1024
    """Tokens computed in one step, at most."""
    prefill_share: float = 0.5
    """While turns decode, prompts may lengthen a step by this share of it; 0: by any."""
    max_running: int = 64
    """Turns that hold KV blocks at the same time, at most."""
    max_images_encoding: int = 4
    """Images on their way through the vision tower at the same moment, at most."""
    max_loads_per_step: int = 32
    """KV blocks brought back from the host in one step, at most."""
    eviction: Eviction = Eviction.COST
    """What goes first when a level of the cache is full."""
    feature_bytes: int = 256 << 20
    """Image features kept on the device. One image larger than this is still served."""
    pixel_bytes: int = 64 << 20
    """Pixel tensors kept in host memory. Those that a turn waits for are kept beyond it."""

    def __post_init__(self) -> None:
        at_least_one = (
            *("max_batch_tokens", "max_running", "max_images_encoding"),
            "max_loads_per_step",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("prefill_share", "feature_bytes", "pixel_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

    @property
    def num_slots(self) -> int:
        """Turns that may run at once: each needs a token in every step, so that none starves."""
        return min(self.max_running, self.max_batch_tokens)
