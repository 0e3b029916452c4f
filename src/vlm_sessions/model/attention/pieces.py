"""Attention in pieces: queries over a part of their contexts, and how parts become a whole.

Softmax over a context can be computed part by part, when each part also gives the logarithm of the
sum of its exponentials (``lse``): the parts' results are then averaged with weights that follow
from these (Dao et al., FlashAttention, arXiv:2205.14135; Juravsky et al., Hydragen,
arXiv:2402.05099). So a step becomes a tree:

    Split ─┬─ Merge ─┬─ Run      a prefix that several spans share, read once for all of them
           │         └─ Split ─┬─ Run     what is each span's own
           │                   └─ Run
           └─ Merge ─┬─ Run      a span's context, where consecutive blocks lie in the pool
                     ├─ Gather   … where they are scattered
                     └─ Own      the tokens of a prompt among themselves

A part reads exactly the slots that its queries may see, where they lie. Slots that hold nothing yet
are never read, whatever is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Partial = tuple[torch.Tensor, torch.Tensor]
"""Attended values ``[num_kv_heads, num_rows, head_dim]``, and lse ``[num_kv_heads, num_rows]``
float32. A row is one query head of one token; those of a token that share a key head follow each
other."""

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, bool], Partial]
"""Queries ``[num_kv_heads, num_rows, head_dim]`` over keys and values ``[num_kv_heads, length,
head_dim]``, with scores multiplied by a number; all keys are visible, or, as many as queries,
causally (``True``). No tensor need be contiguous but in its last dimension."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What pieces read in one layer."""

    slots: torch.Tensor
    """``[2, num_kv_heads, num_slots, head_dim]``: the pool, keys before values."""
    row_keys_values: torch.Tensor
    """``[num_tokens, 2 * num_kv_heads, head_dim]``: what the step itself adds."""
    kernel: Kernel
    scale: float


class Piece(Protocol):
    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Slots that follow each other: no copy."""

    first_slot: int
    length: int

    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial:
        keys, values = layer.slots.narrow(2, self.first_slot, self.length)
        return layer.kernel(queries, keys, values, layer.scale, False)


@dataclass(frozen=True, slots=True)
class Gather:
    """Slots anywhere: copied."""

    slots: torch.Tensor
    """``[length]`` int64."""

    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial:
        keys, values = layer.slots.index_select(2, self.slots)
        return layer.kernel(queries, keys, values, layer.scale, False)


@dataclass(frozen=True, slots=True)
class Own:
    """Several tokens of a step among themselves, each seeing those before it and itself."""

    rows: slice
    """Of the step."""

    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial:
        num_kv_heads, num_rows, head_dim = queries.shape
        num_tokens = self.rows.stop - self.rows.start
        num_shared = num_rows // num_tokens
        own = layer.row_keys_values[self.rows]
        keys, values = own.view(num_tokens, 2, num_kv_heads, head_dim).permute(1, 2, 0, 3)
        if num_shared == 1:
            return layer.kernel(queries, keys, values, layer.scale, True)
        by_head = queries.view(num_kv_heads, num_tokens, num_shared, head_dim)
        by_head = by_head.transpose(1, 2).flatten(0, 1)
        keys, values = (t.repeat_interleave(num_shared, dim=0) for t in (keys, values))
        attended, lse = layer.kernel(by_head, keys, values, layer.scale, True)
        by_token = attended.reshape(num_kv_heads, num_shared, num_tokens, head_dim)
        lse = lse.reshape(num_kv_heads, num_shared, num_tokens)
        return by_token.transpose(1, 2).flatten(1, 2), lse.transpose(1, 2).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class Merge:
    """The same queries over several parts of their contexts."""

    parts: Sequence[Piece]

    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial:
        attended, lse = self.parts[0].attend(queries, layer)
        for part in self.parts[1:]:
            other, other_lse = part.attend(queries, layer)
            share = torch.sigmoid(lse - other_lse)[..., None].to(attended.dtype)
            attended = torch.lerp(other, attended, share)
            lse = torch.logaddexp(lse, other_lse)
        return attended, lse


@dataclass(frozen=True, slots=True)
class Split:
    """Queries of several spans, each with a context of its own."""

    children: Sequence[tuple[int, Piece]]
    """How many tokens each has, in their order."""

    def attend(self, queries: torch.Tensor, layer: Layer) -> Partial:
        num_shared = queries.shape[1] // sum(num_tokens for num_tokens, _ in self.children)
        sizes = [num_tokens * num_shared for num_tokens, _ in self.children]
        done = [
            piece.attend(rows, layer)
            for rows, (_, piece) in zip(
                torch.split(queries, sizes, dim=1), self.children, strict=True
            )
        ]
        return (
            torch.cat([attended for attended, _ in done], dim=1),
            torch.cat([lse for _, lse in done], dim=1),
        )
