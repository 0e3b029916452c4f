"""Paged attention under transformers' own model code.

The tokens of all conversations of a step stand in one row of a batch of one. The language model's
layers do what they always do; only the attention function, registered here under ``NAME`` with
transformers' ``AttentionInterface``, knows that the row is made of spans: it writes the new keys
and values to their slots and lets every span attend to its own blocks, and to nothing else.

What a step looks like reaches the function as the keyword ``paged``, which transformers passes from
the model's ``forward`` down to it. There is no global state.

    row      | span A: 5 tokens of a prompt | B: 1 | span C: 3 tokens | D: 1 |
    prefill    A, C    each alone, causal over its own context
    decode     B, D    together, block tables padded to the longest; a context more than twice as
                       long as another's goes into a batch of its own
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
    context: int
    """Positions up to and including the last token's."""
    blocks: torch.Tensor
    """``[num_blocks]`` int64, just long enough for the context."""
    visible: torch.Tensor | None
    """``[num_tokens, context]`` bool: the positions each token attends to. ``None``: the span
    begins its conversation, so that it is the triangle that every kernel knows."""


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Spans of a single token, of contexts about as long as each other."""

    rows: torch.Tensor
    """``[batch]`` int64."""
    blocks: torch.Tensor
    """``[batch, num_blocks]`` int64, each padded with its own last block."""
    visible: torch.Tensor
    """``[batch, 1, num_blocks * block_size]`` bool: the positions each token attends to."""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """Where the keys and values of a step's row go, and what each token attends to."""

    cache: KVCache
    slots: torch.Tensor
    """``[num_tokens]`` int64: where token ``i`` of the row is written."""
    begun: torch.Tensor
    """``[num_begun]`` int64: blocks to be cleared first, since this step writes to their beginning
    and not to their end."""
    prefill: tuple[PrefillSpan, ...]
    decode: tuple[DecodeBatch, ...]


def plan_attention(spans: Sequence[TokenSpan], cache: KVCache, device: torch.device) -> PagedStep:
    """Lay out a step's attention once, for all layers."""
    size = cache.block_size
    slots: list[int] = []
    begun: list[int] = []
    prefill: list[PrefillSpan] = []
    decode: list[_Decode] = []
    for span in spans:
        first_row, num_tokens = len(slots), len(span.tokens)
        end = span.start + num_tokens
        num_blocks = -(-end // size)
        assert num_blocks <= len(span.blocks), "a span must come with blocks for all its tokens"
        slots.extend(span.blocks[p // size] * size + p % size for p in range(span.start, end))
        if span.start <= (num_blocks - 1) * size and end % size:
            begun.append(span.blocks[num_blocks - 1])
        if num_tokens == 1:
            decode.append(_Decode(first_row, span.start, span.blocks[:num_blocks]))
            continue
        visible = None
        if span.start:
            ones = torch.ones(num_tokens, end, dtype=torch.bool, device=device)
            visible = ones.tril(diagonal=span.start)
        blocks = torch.tensor(span.blocks[:num_blocks], device=device)
        prefill.append(PrefillSpan(first_row, num_tokens, end, blocks, visible))
    return PagedStep(
        cache=cache,
        slots=torch.tensor(slots, device=device),
        begun=torch.tensor(begun, dtype=torch.long, device=device),
        prefill=tuple(prefill),
        decode=tuple(_batch(alike, size, device) for alike in _group_by_length(decode)),
    )


@dataclass(frozen=True, slots=True)
class _Decode:
    """A span of one token."""

    row: int
    position: int
    blocks: tuple[int, ...]


def _group_by_length(decodes: Sequence[_Decode]) -> list[list[_Decode]]:
    """Cut them into groups in which no table is more than twice as long as another.

    Tables of a batch are padded to the longest, and padding is read like all else: one long
    conversation among many short ones would make each of them cost as much.
    """
    groups: list[list[_Decode]] = []
    for decode in sorted(decodes, key=lambda decode: len(decode.blocks)):
        if groups and len(decode.blocks) <= 2 * len(groups[-1][0].blocks):
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return groups


def _batch(decodes: Sequence[_Decode], block_size: int, device: torch.device) -> DecodeBatch:
    widest = max(len(decode.blocks) for decode in decodes)
    tables = [d.blocks + d.blocks[-1:] * (widest - len(d.blocks)) for d in decodes]
    last = torch.tensor([decode.position for decode in decodes], device=device)
    positions = torch.arange(widest * block_size, device=device)
    return DecodeBatch(
        rows=torch.tensor([decode.row for decode in decodes], device=device),
        blocks=torch.tensor(tables, device=device),
        visible=(positions[None, :] <= last[:, None])[:, None, :],
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
    paged.cache.write(layer, paged.slots, key[0], value[0])
    queries = query[0]
    out = torch.empty_like(queries.transpose(0, 1), memory_format=torch.contiguous_format)
    for span in paged.prefill:
        here = slice(span.first_row, span.first_row + span.num_tokens)
        out[here] = _attend_prefill(
            queries[:, here], *paged.cache.read(layer, span.blocks), span, scaling
        )
    for batch in paged.decode:
        out[batch.rows] = _attend_decode(
            queries[:, batch.rows], *paged.cache.read(layer, batch.blocks), batch, scaling
        )
    return out[None], None


def _attend_prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: PrefillSpan, scaling: float
) -> torch.Tensor:
    """``[num_heads, num_tokens, head_dim]`` over ``[num_kv_heads, context or more, head_dim]``.

    Returns ``[num_tokens, num_heads, head_dim]``.
    """
    groups = query.shape[0] // keys.shape[0]
    keys, values = (
        t[:, None, : span.context].expand(-1, groups, -1, -1).flatten(0, 1) for t in (keys, values)
    )
    attended = functional.scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=span.visible,
        is_causal=span.visible is None,
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
    """``[num_heads, batch, head_dim]`` over ``[num_kv_heads, batch, context, head_dim]``.

    Two matmuls: with a single query they are several times faster on a CPU than the fused kernel.
    Query heads that share a key head stand together, so that keys need not be repeated.

    Returns ``[batch, num_heads, head_dim]``.
    """
    grouped = query.view(keys.shape[0], -1, *query.shape[1:]).transpose(1, 2)
    scores = grouped @ keys.transpose(2, 3) * scaling
    scores = scores.masked_fill(~batch.visible, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    attended: torch.Tensor = weights @ values  # [num_kv_heads, batch, heads of each, head_dim]
    return attended.transpose(0, 1).flatten(1, 2)


def register() -> None:
    """Make ``NAME`` known to transformers. Registering twice changes nothing."""
    AttentionInterface.register(NAME, paged_attention)
