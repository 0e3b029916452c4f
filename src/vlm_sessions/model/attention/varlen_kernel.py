"""torch's own paged attention (``torch.nn.attention.varlen``), where its version has block tables.

Its kernel, FlashAttention-2, wants pages of a multiple of 256 tokens and keys of the queries' type.
"""

from __future__ import annotations

import inspect

import torch

from vlm_sessions.model.attention.paged_call import PagedCall

PAGE_MULTIPLE = 256


def has_block_tables() -> bool:
    """Whether this torch's ``varlen_attn`` takes all that we give it."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch
    except ImportError:
        return False
    known = inspect.signature(varlen_attn).parameters
    return {"block_table", "seqused_k", "scale", "enable_gqa", "window_size"} <= set(known)


def varlen_kernel(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    call: PagedCall,
    *,
    scale: float,
    kv_scales: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``paged_call.PagedKernel``, for keys without scales."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn  # noqa: PLC0415

    assert kv_scales is None, "FlashAttention-2 reads keys of 16 bits only"
    out, lse = varlen_attn(
        queries,
        keys,
        values,
        call.starts,
        call.starts,  # of keys; with pages, their shape counts and nothing else
        call.max_queries,
        call.max_length,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if call.causal else (-1, -1),
        enable_gqa=queries.shape[1] != keys.shape[2],
        seqused_k=call.lengths,
        block_table=call.tables,
    )
    return out, lse.T  # it comes as [num_heads, num_queries]
