"""One call of a paged kernel: packed queries of several sequences over pages of keys and values.

The signature is that of ``torch.nn.attention.varlen.varlen_attn`` with a block table, so that
torch's kernel, our own and the plain one here can stand in for each other.

Partial results over different keys of the same query are put together by their log-sum-exps (Dao et
al., FlashAttention, 2022, section 3.1), which is what shared prefixes and split contexts rest on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class PagedCall:
    """Which queries attend to which pages. Tensors are int32, on the device, contiguous.

    A sequence may have no queries, and queries after the last sequence's belong to none: what comes
    out for them is undefined.
    """

    starts: torch.Tensor
    """``[num_sequences + 1]``: sequence ``i`` has the queries ``starts[i] … starts[i + 1] - 1``."""
    tables: torch.Tensor
    """``[num_sequences, max_pages]``: pages of each sequence; beyond its length, any that exist."""
    lengths: torch.Tensor
    """``[num_sequences]``: keys of each sequence."""
    max_queries: int
    """No sequence has more queries."""
    max_length: int
    """No sequence has more keys."""
    causal: bool
    """The last query of a sequence sees all its keys, the one before it all but one, and so on;
    otherwise each sees all."""


class PagedKernel(Protocol):
    """Carries out calls. Keys may be of another type than queries; then they come with scales."""

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        call: PagedCall,
        *,
        scale: float,
        kv_scales: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            queries: ``[num_queries, num_heads, head_dim]``, contiguous in the last dimension. Heads
                that share a key head stand together.
            keys, values: ``[num_pages, page_size, num_kv_heads, head_dim]``, views of the pool.
            scale: of the scores.
            kv_scales: ``[2, num_kv_heads]`` float32: what keys and values are to be multiplied by.

        Returns:
            ``[num_queries, num_heads, head_dim]`` in the type of the queries, and the log-sum-exp
            of the scores, ``[num_queries, num_heads]`` float32, minus infinity if no key is seen.
        """
        ...


def plain_kernel(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    call: PagedCall,
    *,
    scale: float,
    kv_scales: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``PagedKernel``, as plainly as it can be said: sequence by sequence, on any device."""
    out = torch.zeros_like(queries)
    lse = torch.full(queries.shape[:2], float("-inf"), device=queries.device)
    num_shared = queries.shape[1] // keys.shape[2]
    starts, lengths = call.starts.tolist(), call.lengths.tolist()
    for number, length in enumerate(lengths):
        rows = slice(starts[number], starts[number + 1])
        num_queries = rows.stop - rows.start
        if not (num_queries and length):
            continue
        assert num_queries <= call.max_queries
        assert length <= call.max_length
        pages = call.tables[number, : -(-length // keys.shape[1])]
        k, v = (
            _context(pool, pages, length, None if kv_scales is None else kv_scales[side])
            for side, pool in enumerate((keys, values))
        )
        k, v = (t.repeat_interleave(num_shared, dim=1).transpose(0, 1) for t in (k, v))
        scores = queries[rows].float().transpose(0, 1) @ k.transpose(1, 2) * scale
        if call.causal:
            seen = torch.ones(num_queries, length, dtype=torch.bool, device=queries.device)
            scores = scores.masked_fill(~seen.tril(length - num_queries), float("-inf"))
        lse[rows] = scores.logsumexp(dim=-1).T
        out[rows] = (scores.softmax(dim=-1) @ v).transpose(0, 1).to(out.dtype)
    return out, lse


def _context(
    pool: torch.Tensor, pages: torch.Tensor, length: int, scales: torch.Tensor | None
) -> torch.Tensor:
    """``[length, num_kv_heads, head_dim]`` float32."""
    context = pool[pages.long()].flatten(0, 1)[:length].float()
    return context if scales is None else context * scales[:, None]


def merge(
    first: torch.Tensor, first_lse: torch.Tensor, second: torch.Tensor, second_lse: torch.Tensor
) -> torch.Tensor:
    """Attention over two sets of keys, from that over each.

    Args:
        first, second: ``[num_queries, num_heads, head_dim]``.
        first_lse, second_lse: ``[num_queries, num_heads]`` float32; not both minus infinity.

    Returns:
        in the shape and type of ``first``.
    """
    whole = torch.logaddexp(first_lse, second_lse)
    share = (second_lse - whole).exp()[:, :, None]
    merged = first.float() * (first_lse - whole).exp()[:, :, None]
    return (merged + second.float() * share).to(first.dtype)
