"""Paged attention under transformers' own model code.

The tokens of all conversations of a step stand in one row of a batch of one. The language model's
layers do what they always do; only the attention function, registered here under ``NAME`` with
transformers' ``AttentionInterface``, knows that the row is made of spans: it writes the new keys
and values to their slots and lets every span attend to its own blocks, and to nothing else.

What a step looks like reaches the function as the keyword ``paged``, which transformers passes from
the model's ``forward`` down to it. There is no global state.

    row      | span A: 5 tokens of a prompt | B: 1 | span C: 3 tokens | D: 1 |
    prefill    A, C    each alone, causal over its own context
    decode     B, D    together, block tables padded to the longest
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import AttentionInterface

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.kv_cache import KVCache

NAME = "vlm_sessions_paged"


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Several consecutive tokens of one conversation."""

    first_row: int
    num_tokens: int
    start: int
    """Position of the first token; the context is ``start + num_tokens`` long."""
    blocks: torch.Tensor
    """``[num_blocks]`` int64, just long enough for the context."""


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """All spans of a single token."""

    rows: torch.Tensor
    """``[batch]`` int64."""
    blocks: torch.Tensor
    """``[batch, num_blocks]`` int64, padded with block 0."""
    visible: torch.Tensor
    """``[batch, 1, 1, num_blocks * block_size]`` bool: the positions each token attends to."""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """Where the keys and values of a step's row go, and what each token attends to."""

    cache: KVCache
    slots: torch.Tensor
    """``[num_tokens]`` int64: where token ``i`` of the row is written."""
    prefill: tuple[PrefillSpan, ...]
    decode: DecodeBatch | None


def plan_attention(spans: Sequence[TokenSpan], cache: KVCache, device: torch.device) -> PagedStep:
    """Lay out a step's attention once, for all layers."""
    size = cache.block_size
    slots: list[int] = []
    prefill: list[PrefillSpan] = []
    decode: list[tuple[int, TokenSpan]] = []
    for span in spans:
        end = span.start + len(span.tokens)
        num_blocks = -(-end // size)
        assert num_blocks <= len(span.blocks), "a span must come with blocks for all its tokens"
        first_row = len(slots)
        slots.extend(span.blocks[p // size] * size + p % size for p in range(span.start, end))
        if len(span.tokens) == 1:
            decode.append((first_row, span))
        else:
            blocks = torch.tensor(span.blocks[:num_blocks], device=device)
            prefill.append(PrefillSpan(first_row, len(span.tokens), span.start, blocks))
    return PagedStep(
        cache=cache,
        slots=torch.tensor(slots, device=device),
        prefill=tuple(prefill),
        decode=_batch_decodes(decode, size, device) if decode else None,
    )


def _batch_decodes(
    decode: Sequence[tuple[int, TokenSpan]], block_size: int, device: torch.device
) -> DecodeBatch:
    used = [-(-(span.start + 1) // block_size) for _, span in decode]
    widest = max(used)
    tables = [
        [*span.blocks[:n], *([0] * (widest - n))] for (_, span), n in zip(decode, used, strict=True)
    ]
    last = torch.tensor([span.start for _, span in decode], device=device)
    positions = torch.arange(widest * block_size, device=device)
    return DecodeBatch(
        rows=torch.tensor([row for row, _ in decode], device=device),
        blocks=torch.tensor(tables, device=device),
        visible=(positions[None, :] <= last[:, None])[:, None, None, :],
    )


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    paged: PagedStep,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The function that transformers' attention layers call.

    Args:
        query: ``[1, num_heads, num_tokens, head_dim]``, positions already rotated in.
        key, value: ``[1, num_kv_heads, num_tokens, head_dim]``.
        attention_mask: always ``None``; what is visible follows from ``paged``.

    Returns:
        ``[1, num_tokens, num_heads, head_dim]``, and no attention weights.
    """
    layer = module.layer_idx
    assert isinstance(layer, int)
    rows = query[0].transpose(0, 1)
    paged.cache.write(layer, paged.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    for span in paged.prefill:
        here = slice(span.first_row, span.first_row + span.num_tokens)
        out[here] = _attend_prefill(
            rows[here], *paged.cache.read(layer, span.blocks), span, scaling
        )
    if paged.decode is not None:
        batch = paged.decode
        out[batch.rows] = _attend_decode(
            rows[batch.rows], *paged.cache.read(layer, batch.blocks), batch, scaling
        )
    return out[None], None


def _attend_prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: PrefillSpan, scaling: float
) -> torch.Tensor:
    """``[num_tokens, num_heads, head_dim]`` over ``[context or more, num_kv_heads, head_dim]``."""
    context = span.start + span.num_tokens
    groups = query.shape[1] // keys.shape[1]
    keys, values = (
        t[:context].transpose(0, 1).repeat_interleave(groups, dim=0) for t in (keys, values)
    )
    mask = None
    if span.start:
        ones = torch.ones(span.num_tokens, context, dtype=torch.bool, device=query.device)
        mask = ones.tril(diagonal=span.start)
    attended = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
    )
    return attended[0].transpose(0, 1)


def _attend_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    batch: DecodeBatch,
    scaling: float,
) -> torch.Tensor:
    """``[batch, num_heads, head_dim]`` over ``[batch, context, num_kv_heads, head_dim]``.

    Two matmuls: with a single query they are several times faster on a CPU than the fused kernel.
    Query heads that share a key head stand together, so that keys need not be repeated.
    """
    num_kv_heads = keys.shape[2]
    grouped = query.reshape(len(query), num_kv_heads, -1, query.shape[-1])
    scores = grouped @ keys.permute(0, 2, 3, 1) * scaling
    scores = scores.masked_fill(~batch.visible, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    attended: torch.Tensor = weights @ values.permute(0, 2, 1, 3)
    return attended.flatten(1, 2)


def register() -> None:
    """Make ``NAME`` known to transformers. Registering twice changes nothing."""
    AttentionInterface.register(NAME, paged_attention)
