"""From logits to tokens. A row's choice depends on its logits and its ``Draw``, on nothing else.

Greedy is the argmax. Otherwise: temperature, the ``top_k`` most probable, of these the fewest that
reach ``top_p``, then one number for each ``(seed, index)`` picks from the cumulative distribution.
The number comes from a hash and not from a generator's state, so that batching, eviction and
restarts cannot shift it.

All rows are chosen together and on the device: what the host knows of them (which rows draw, their
parameters and numbers) is sent with the step, and nothing is read back before the tokens are. The
same for one row, as one would write it down, is ``distribution`` and ``draw_one``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import partial

import torch

from vlm_sessions.engine.types import Draw, Sampling
from vlm_sessions.model.text.interface import TextModel
from vlm_sessions.model.transfer import to_device


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
        self._never_or_eos = torch.cat((self._never, self._eos))
        self._device = device

    def sample(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        """``choose``, read: waits for the device."""
        tokens: list[int] = self.choose(logits, draws).tolist()
        return tokens

    def choose_after(
        self, text: TextModel, hidden: torch.Tensor, draws: Sequence[Draw]
    ) -> torch.Tensor:
        """``choose`` from the logits of ``hidden`` ``[num_draws, hidden_size]``, which need not all
        be computed where the largest one is enough."""
        if any(draw.sampling.temperature > 0 for draw in draws):
            return self.choose(text.logits(hidden), draws)
        return text.greedy(hidden, partial(self._bar, draws=draws))

    def choose(self, logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        """One token for each draw. The host does not wait for the device.

        Args:
            logits: ``[num_draws, vocab_size]``, any float type. What cannot be chosen is set to
                minus infinity in it.
            draws: one a row.

        Returns:
            ``[num_draws]`` int64, on the device of the logits.
        """
        self._bar(logits, draws)
        tokens = logits.argmax(dim=-1)
        drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
        if drawn:
            rows = self._send(drawn, torch.long)
            parameters = self._send([_parameters(draws[row]) for row in drawn], torch.float64)
            limits = [draws[row].sampling.top_k or logits.shape[1] for row in drawn]
            tokens[rows] = _draw(
                logits[rows].float(), parameters, min(max(limits), logits.shape[1])
            )
        return tokens

    def _bar(self, logits: torch.Tensor, draws: Sequence[Draw]) -> None:
        """Set what cannot be chosen to minus infinity."""
        endless = [row for row, draw in enumerate(draws) if draw.sampling.ignore_eos]
        barred = self._never_or_eos if len(endless) == len(draws) else self._never
        logits.index_fill_(1, barred, float("-inf"))
        if 0 < len(endless) < len(draws):
            rows = self._send(endless, torch.long)
            logits[rows[:, None], self._eos] = float("-inf")

    def _send(self, values: Sequence[object], dtype: torch.dtype) -> torch.Tensor:
        return to_device(values, dtype, self._device)


def _parameters(draw: Draw) -> tuple[float, float, float, float]:
    sampling = draw.sampling
    number = uniform(sampling.seed, draw.index)
    return sampling.temperature, float(sampling.top_k), sampling.top_p, number


def _draw(logits: torch.Tensor, parameters: torch.Tensor, widest: int) -> torch.Tensor:
    """``draw_one`` for many rows at once.

    Args:
        logits: ``[num_rows, vocab_size]`` float32.
        parameters: ``[num_rows, 4]`` float64: temperature, top_k, top_p, a number in [0, 1).
        widest: candidates of the row that may have the most.

    Returns:
        ``[num_rows]`` int64.
    """
    temperature, top_k, top_p, number = parameters[:, :, None].unbind(dim=1)  # [num_rows, 1] each
    # Stable: equal logits keep the order of their ids, on every device and in every batch.
    ordered, tokens = (t[:, :widest] for t in logits.sort(descending=True, stable=True))
    weights = ((ordered.double() - ordered[:, :1]) / temperature).exp()
    reached = weights.cumsum(dim=-1)
    limit = torch.where(top_k > 0, top_k, widest).clamp(max=widest).long()
    enough = top_p * reached.gather(1, limit - 1)
    fewest = 1 + (reached < enough).sum(dim=-1, keepdim=True)
    kept = torch.where(top_p < 1, fewest.minimum(limit), limit)
    kept = kept.minimum((weights > 0).sum(dim=-1, keepdim=True))
    chosen = (reached <= number * reached.gather(1, kept - 1)).sum(dim=-1, keepdim=True)
    return tokens.gather(1, chosen.minimum(kept - 1))[:, 0]


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates of one row and their probabilities, most probable first.

    Args:
        logits: ``[vocab_size]``.
        sampling: of a temperature above 0.

    Returns:
        probabilities ``[num_candidates]`` float64 that sum to 1, token ids ``[num_candidates]``.
    """
    weights, tokens = _candidates(logits, sampling)
    return weights / weights.sum(), tokens


def draw_one(logits: torch.Tensor, draw: Draw) -> int:
    """The token of one row of logits ``[vocab_size]``: where its number falls among them."""
    weights, tokens = _candidates(logits, draw.sampling)
    reached = weights.cumsum(dim=-1)
    chosen = int((reached <= uniform(draw.sampling.seed, draw.index) * reached[-1]).sum())
    return int(tokens[min(chosen, len(tokens) - 1)])


def _candidates(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (the most probable token's is 1) and ids of the tokens that may be drawn."""
    ordered, tokens = logits.float().sort(descending=True, stable=True)
    weights = ((ordered.double() - ordered[0]) / sampling.temperature).exp()
    if sampling.top_k > 0:
        weights = weights[: sampling.top_k]
    if sampling.top_p < 1:
        reached = weights.cumsum(dim=-1)
        weights = weights[: 1 + int((reached < sampling.top_p * reached[-1]).sum())]
    weights = weights[weights > 0]
    return weights, tokens[: len(weights)]
