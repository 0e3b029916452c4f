"""Reads from the model's image features what lies under each patch. Only for training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from demo.store import PATCH_LABELS


class PatchHeads(nn.Module):
    """One linear reader for each of `PATCH_LABELS`."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, size) for size in PATCH_LABELS.values())

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 64, hidden), labels (n, 64, 5) -> the loss, and the share of patches
        that have all labels right."""
        loss = features.new_zeros(())
        right = torch.ones(labels.shape[:2], dtype=torch.bool, device=labels.device)
        for column, head in enumerate(self.heads):
            logits = head(features).float()
            wanted = labels[..., column]
            loss = loss + cross_entropy(logits.flatten(0, 1), wanted.flatten())
            right &= logits.argmax(-1) == wanted
        return loss, right.float().mean()
