"""A vision tower's activation in one pass over its numbers.

CLIP's, ``x * sigmoid(1.702 * x)``, is three of torch's operations, each of which reads and writes
the widest that there is in a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.activations import QuickGELUActivation

from vlm_sessions.model.native.library import Library


class NativeQuickGelu(torch.nn.Module):
    """``QuickGELUActivation`` of transformers by our kernel, in place where that can be."""

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library
        self._plain = QuickGELUActivation()

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        if not numbers.is_contiguous() or not self._library.norms(numbers.dtype, numbers.numel()):
            plain: torch.Tensor = self._plain(numbers)
            return plain
        self._library.quick_gelu_(numbers)
        return numbers


def fuse_activations(tower: Any, library: Library) -> int:
    """Exchange those of a vision tower on the CPU; returns how many there were."""
    owners = [
        module
        for module in tower.modules()
        if isinstance(getattr(module, "activation_fn", None), QuickGELUActivation)
    ]
    for owner in owners:
        owner.activation_fn = NativeQuickGelu(library)
    return len(owners)
