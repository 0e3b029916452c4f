"""What stands between a decoder's products: norm, rotation, gate.

Each reads little and computes little; by torch, though, each is several passes with a start of
their own, which together are a good part of a step. Ours (``model/native``) are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from vlm_sessions.model.native.library import Library


@dataclass(frozen=True, slots=True)
class Rotation:
    """``x * cos + (x with its halves swapped) * sin``, both ``[num_tokens, head_dim]``."""

    cos: torch.Tensor
    sin: torch.Tensor
    """Its first half negated."""


class Operations(Protocol):
    def norm(self, hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root mean square norm over the last dimension (Zhang and Sennrich, arXiv:1910.07467)."""
        ...

    def rotation(self, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
        """As ``rotate_`` wants it; ``sin`` with its first half negated."""
        ...

    def rotate_(self, heads: torch.Tensor, rotation: Rotation) -> None:
        """Turn ``[num_tokens, num_heads, head_dim]``, in place."""
        ...

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of ``[num_tokens, 2 * size]``: ``[num_tokens, size]``."""
        ...


class TorchOperations:
    """For every device, type and size."""

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, eps)

    def rotation(self, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
        return Rotation(cos, sin)

    def rotate_(self, heads: torch.Tensor, rotation: Rotation) -> None:
        swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
        heads.mul_(rotation.cos[:, None]).addcmul_(swapped, rotation.sin[:, None])

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)


class NativeOperations:
    """By our kernels."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self.library.norm(hidden, weight, eps)

    def rotation(self, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
        return Rotation(cos.float().contiguous(), sin.float().contiguous())

    def rotate_(self, heads: torch.Tensor, rotation: Rotation) -> None:
        self.library.rotate_(heads, rotation.cos, rotation.sin)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return self.library.gate(gate_up)


def choose_operations(
    library: Library | None, dtype: torch.dtype, *, hidden_size: int, intermediate_size: int
) -> Operations:
    """Ours where there are any that take rows of these sizes."""
    sizes = hidden_size, intermediate_size
    if library is not None and all(library.norms(dtype, size) for size in sizes):
        return NativeOperations(library)
    return TorchOperations()
