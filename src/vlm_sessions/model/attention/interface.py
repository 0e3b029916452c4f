"""Paged attention as a text model and the runner see it, whichever kernels are inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from vlm_sessions.engine.types import TokenSpan


class AttentionStep(Protocol):
    """A step's row of tokens, laid out once for all layers.

    row      | span A: 5 tokens of a prompt | B: 1 | span C: 3 tokens | D: 1 |
    """

    @property
    def positions(self) -> torch.Tensor:
        """``[num_tokens]`` int64 on the device: each token's place in its conversation."""
        ...

    def attend(self, layer: int, queries: torch.Tensor, keys_values: torch.Tensor) -> torch.Tensor:
        """Write a layer's keys and values to their slots, then let every token attend.

        Each token sees the positions of its own conversation up to and including its own.

        Args:
            queries: ``[num_tokens, num_heads, head_dim]``, rotated, not scaled. Heads that share a
                key head stand together.
            keys_values: ``[num_tokens, 2 * num_kv_heads, head_dim]``, keys (rotated) before values.

        Both may be strided views of a larger tensor, contiguous in the last dimension.

        Returns:
            ``[num_tokens, num_heads, head_dim]``, valid until the next call.
        """
        ...


class AttentionBackend(Protocol):
    """One way of computing attention over one ``KVCache``, whose layout it chose."""

    def plan(self, spans: Sequence[TokenSpan]) -> AttentionStep:
        """Lay out a step, and clear the blocks that it begins if they are read whole (see
        ``KVCache.clear``).

        A step may be used until the next ``plan``.
        """
        ...
