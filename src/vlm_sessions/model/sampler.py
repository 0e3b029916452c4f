"""From logits to tokens. A row's choice depends on its logits and its ``Draw``, on nothing else.

Greedy is the argmax. Otherwise: temperature, the ``top_k`` most probable, of these the fewest that
reach ``top_p``, then one number for each ``(seed, index)`` picks from the cumulative distribution.
The number comes from a hash and not from a generator's state, so that batching, eviction and
restarts cannot shift it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import torch

from vlm_sessions.engine.types import Draw, Sampling


def uniform(seed: int, index: int) -> float:
    """A number in ``[0, 1)`` that belongs to output ``index`` under ``seed``; 53 random bits."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


class Sampler:
    """Chooses tokens.

    Args:
        eos_ids: tokens that end an answer; with ``ignore_eos`` they cannot be chosen.
        never: tokens that cannot be chosen at all, such as the placeholder of an image: no
            conversation could hold it.
    """

    def __init__(
        self, *, eos_ids: Collection[int], never: Collection[int], device: torch.device
    ) -> None:
        self._eos = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
        self._never = torch.tensor(sorted(never), dtype=torch.long, device=device)

    def sample(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        """One token for each draw.

        Args:
            logits: ``[num_draws, vocab_size]``, any float type; left as it is.
            draws: one a row.
        """
        logits = logits.float().index_fill(1, self._never, float("-inf"))
        endless = [row for row, draw in enumerate(draws) if draw.sampling.ignore_eos]
        if endless:
            rows = torch.tensor(endless, device=logits.device)
            logits[rows[:, None], self._eos] = float("-inf")
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        for row, draw in enumerate(draws):
            if draw.sampling.temperature > 0:
                tokens[row] = _draw(logits[row], draw)
        return tokens


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates of one row and their probabilities, most probable first.

    Args:
        logits: ``[vocab_size]``.

    Returns:
        probabilities ``[num_candidates]`` float64 that sum to 1, token ids ``[num_candidates]``.
    """
    scaled = (logits.double() - logits.max()) / sampling.temperature
    # Stable: equal logits keep the order of their ids, on every device and in every batch.
    scaled, tokens = scaled.sort(descending=True, stable=True)
    if sampling.top_k > 0:
        scaled, tokens = scaled[: sampling.top_k], tokens[: sampling.top_k]
    probabilities = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        kept = max(1, int((before < sampling.top_p).sum()))
        probabilities, tokens = probabilities[:kept], tokens[:kept]
    return probabilities / probabilities.sum(), tokens


def _draw(logits: torch.Tensor, draw: Draw) -> int:
    probabilities, tokens = distribution(logits, draw.sampling)
    target = uniform(draw.sampling.seed, draw.index)
    chosen = int((probabilities.cumsum(dim=-1) <= target).sum())
    # Rounding may leave the last sum below 1, and candidates of probability 0 are no candidates.
    chosen = min(chosen, int((probabilities > 0).sum()) - 1)
    return int(tokens[chosen])
