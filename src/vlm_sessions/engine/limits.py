"""What an engine may use: the part of its configuration that its scheduler needs."""

from __future__ import annotations

import msgspec


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one engine. The block pool's size comes from the runner, which allocates it."""

    max_batch_tokens: int = 1024
    """Tokens computed in one step, at most."""
    max_running: int = 64
    """Turns that hold KV blocks at the same time, at most."""
    max_images_per_step: int = 4
    """Images run through the vision tower in one step, at most: it delays the step's decodes."""
    feature_bytes: int = 256 << 20
    """Image features kept on the device. One image larger than this is still served."""
    pixel_bytes: int = 64 << 20
    """Pixel tensors kept in host memory. Those that a turn waits for are kept beyond it."""

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "max_running", "max_images_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("feature_bytes", "pixel_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

    @property
    def num_slots(self) -> int:
        """Turns that may run at once: each needs a token in every step, so that none starves."""
        return min(self.max_running, self.max_batch_tokens)
