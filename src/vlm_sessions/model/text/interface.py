"""The text model as the runner sees it, whichever kernels are inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from vlm_sessions.model.attention.interface import AttentionStep

Bar = Callable[[torch.Tensor], None]
"""Sets what may not be chosen to minus infinity, in scores ``[num_rows, vocab_size]``."""


class TextModel(Protocol):
    """A decoder's weights: embeddings in, hidden states and logits out. Holds no keys or values.

    All tensors are on the model's device, activations in its dtype. Called in inference mode.
    """

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[num_tokens, hidden_size]`` of ``tokens`` ``[num_tokens]`` int64.

        The caller may write to them: that is how images come in.
        """
        ...

    def forward(self, embeds: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        """Run all layers and the last norm over a step's row.

        Args:
            embeds: ``[num_tokens, hidden_size]``, rows in the order of the step's spans. Left as
                they are.
            step: what the row is made of; every layer attends through it.

        Returns:
            hidden states ``[num_tokens, hidden_size]``, valid until the next call.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[num_rows, vocab_size]`` of ``hidden`` ``[num_rows, hidden_size]``, in its dtype."""
        ...

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor:
        """``[num_rows]`` int64: the tokens of the largest logits that ``bar`` leaves, the first of
        equal ones. On the device, which the host does not wait for if it is a GPU."""
        ...
