"""Attention as plainly as it can be said: gather each span's context, mask, softmax.

Every layer copies the whole context of every span. Nothing is batched but what torch batches by
itself. This is what other backends must agree with, and what serves where none of them fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.attention.layout import lay_out
from vlm_sessions.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class _Span:
    """Consecutive tokens of one conversation."""

    rows: slice
    context: int
    """Positions up to and including the last token's."""
    blocks: torch.Tensor
    """``[num_blocks]`` int64, just long enough for the context."""
    visible: torch.Tensor
    """``[num_tokens, context]`` bool: the positions that each token attends to."""


@dataclass(frozen=True, slots=True)
class _Step:
    cache: KVCache
    scale: float
    positions: torch.Tensor
    slots: torch.Tensor
    spans: tuple[_Span, ...]

    def attend(self, layer: int, queries: torch.Tensor, keys_values: torch.Tensor) -> torch.Tensor:
        self.cache.write(layer, self.slots, keys_values)
        return torch.cat([self._attend(layer, queries[span.rows], span) for span in self.spans])

    def _attend(self, layer: int, queries: torch.Tensor, span: _Span) -> torch.Tensor:
        """``[num_tokens, num_heads, head_dim]`` of one span."""
        keys, values = self.cache.read(layer, span.blocks)
        num_shared = queries.shape[1] // keys.shape[0]
        keys, values = (
            t[:, : span.context].to(queries.dtype).repeat_interleave(num_shared, dim=0)
            for t in (keys, values)
        )
        scores = queries.transpose(0, 1) @ keys.transpose(1, 2) * self.scale
        scores = scores.masked_fill(~span.visible, float("-inf"))
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
        return (weights @ values).transpose(0, 1)


class ReferenceAttention:
    """``interface.AttentionBackend`` on any device and in any layout of the cache.

    Args:
        scale: of the scores, before the softmax.
    """

    def __init__(self, cache: KVCache, *, scale: float) -> None:
        self._cache = cache
        self._scale = scale

    def plan(self, spans: Sequence[TokenSpan]) -> AttentionStep:
        size, device = self._cache.block_size, self._cache.device
        layout = lay_out(spans, size)
        planned = []
        first_row = 0
        for span in spans:
            num_tokens = len(span.tokens)
            context = span.start + num_tokens
            blocks = span.blocks[: -(-context // size)]
            ones = torch.ones(num_tokens, context, dtype=torch.bool, device=device)
            planned.append(
                _Span(
                    rows=slice(first_row, first_row + num_tokens),
                    context=context,
                    blocks=torch.tensor(blocks, device=device),
                    visible=ones.tril(diagonal=span.start),
                )
            )
            first_row += num_tokens
        return _Step(
            cache=self._cache,
            scale=self._scale,
            positions=torch.tensor(layout.positions, device=device),
            slots=torch.tensor(layout.slots, device=device),
            spans=tuple(planned),
        )
