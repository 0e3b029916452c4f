"""What computes one piece (see ``pieces.Kernel``) on a CPU: torch's fused kernel, or two products.

The fused one is the CPU's half of ``scaled_dot_product_attention``, called by its own name because
only so does it give the sums that merging needs. With 16-bit types and a single query it is fast
where the processor multiplies tiles (AMX), and several times slower than two products where it does
not. Two products hold all scores at once: with many queries that is the slower way, and takes room.
"""

from __future__ import annotations

import torch

from vlm_sessions.model.attention.pieces import Kernel, Partial

MAX_PRODUCT_ROWS = 64


def choose_piece_kernel(dtype: torch.dtype) -> Kernel:
    """The fastest one here, for queries, keys and values of ``dtype``."""
    if not has_fused():
        return two_products
    return fused if dtype is torch.float32 or _multiplies_tiles() else products_for_few


def has_fused() -> bool:
    """Whether this torch has it under the name that we know."""
    return hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


def _multiplies_tiles() -> bool:
    is_supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(is_supported and is_supported())


def fused(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
) -> Partial:
    """``pieces.Kernel`` by torch's fused kernel."""
    attended, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries[None], keys[None], values[None], is_causal=causal, scale=scale
    )
    return attended[0], lse[0]


def two_products(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
) -> Partial:
    """``pieces.Kernel`` as it is written down; on any device."""
    scores = torch.bmm(queries, keys.transpose(1, 2)).float() * scale
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse[..., None]).exp().to(values.dtype)
    return torch.bmm(weights, values), lse


def products_for_few(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
) -> Partial:
    """``pieces.Kernel`` by two products for few queries, and by the fused kernel for many."""
    chosen = two_products if queries.shape[1] <= MAX_PRODUCT_ROWS else fused
    return chosen(queries, keys, values, scale, causal)
