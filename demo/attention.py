"""Attention for training: which token sees which, and a faster way to compute it on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FLOAT32_ATTENTION = "demo_float32"


def register_float32_attention() -> None:
    """Makes `FLOAT32_ATTENTION` a name for `model.set_attn_implementation`."""
    ALL_ATTENTION_FUNCTIONS.register(FLOAT32_ATTENTION, _attention)


def branch_mask(segments: Tensor) -> Tensor:
    """(n, tokens) segments -> (n, 1, tokens, tokens) bool: a token sees what came before it in
    the prefix (segment 0) and in its own branch."""
    row, column = segments[:, None, :, None], segments[:, None, None, :]
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return before & ((column == 0) | (row == column))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """Attention in float32 within bfloat16 autocast: on CPUs its backward is faster so."""
    with torch.autocast(query.device.type, enabled=False):
        out = scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask, scale=how.get("scaling")
        )
    return out.transpose(1, 2).contiguous(), None
