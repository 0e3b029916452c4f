"""What computes one piece (see ``pieces.Kernel``) on a CPU: our kernel in C for few queries,
torch's fused kernel, or two products.

The fused one is the CPU's half of ``scaled_dot_product_attention``, called by its own name because
only so does it give the sums that merging needs. With 16-bit types and a single query it is fast
where the processor multiplies tiles (AMX), and several times slower than two products where it does
not. Two products hold all scores at once: with many queries that is the slower way, and takes room.
Ours (``model/native``) reads keys and values as fast as memory gives them.
"""

from __future__ import annotations

import torch

from vlm_sessions.model.attention.pieces import Kernel, Partial
from vlm_sessions.model.native.library import Library

MAX_PRODUCT_ROWS = 64


MAX_NATIVE_ROWS = {torch.float32: 16, torch.bfloat16: 8}
"""Of queries: with more arithmetic is the limit, and torch's kernel is as fast."""


def choose_piece_kernel(dtype: torch.dtype, head_dim: int, library: Library | None) -> Kernel:
    """The fastest one here, for queries, keys and values of ``dtype``."""
    kernel = _choose_of_torch(dtype)
    if library is None or not library.attends(dtype, head_dim):
        return kernel
    return native_for_few(library, kernel, MAX_NATIVE_ROWS[dtype])


def native_for_few(library: Library, otherwise: Kernel, max_rows: int) -> Kernel:
    """``pieces.Kernel`` in C for few queries that see all keys, and another one for the rest."""

    def native(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool
    ) -> Partial:
        if causal or queries.shape[1] > max_rows:
            return otherwise(queries, keys, values, scale, causal)
        return library.attend(queries, keys, values, scale)

    return native


def _choose_of_torch(dtype: torch.dtype) -> Kernel:
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
