"""The largest logit without reading all of the head.

A head is the largest weight of a small decoder, and a greedy choice takes one number from it. A
copy in 8 bits is a quarter of what is read in float32, half in bfloat16, and tells each logit but
for an error that has a bound, by Cauchy and Schwarz:

    |x · w - x · ŵ|  <=  ‖x‖ ‖w - ŵ‖

Tokens whose logit cannot be the largest within these bounds are left out. The few that are left are
multiplied with the weights themselves, by the same kernel as all would be: so the choice is the
same, equal logits included, whatever the weights are. Where many are left, all are multiplied.
"""

from __future__ import annotations

import torch

from vlm_sessions.model.native.library import STEPS_8_BITS, Library
from vlm_sessions.model.text.interface import Bar

LEAST_BYTES = 16 << 20
"""Of a head: a smaller one takes less time than a screen's bookkeeping, or lies in caches."""
MOST_ROWS = 32
"""With more, bookkeeping takes what reading less saves."""
MOST_SHARE = 1 / 16
"""Of the tokens, to be multiplied one by one."""
_MULTIPLE = 16
"""Products come in so many output features."""
_AT_ONCE = 4096
"""Tokens that are brought to 8 bits together: bounds the memory that it takes."""


class Screen:
    """Over a head without biases, on the CPU.

    Args:
        weight: ``[vocab_size, hidden_size]``, float32 or bfloat16; kept as it is, and a copy in 8
            bits beside it.
    """

    def __init__(self, weight: torch.Tensor, library: Library) -> None:
        self._weight = weight
        self._library = library
        self._most = int(len(weight) * MOST_SHARE)
        parts = [_to_8_bits(some) for some in torch.split(weight, _AT_ONCE)]
        self._numbers, self._scales, self._errors = map(torch.cat, zip(*parts, strict=True))

    @property
    def num_bytes(self) -> int:
        """Of the copy."""
        return self._numbers.nbytes + self._scales.nbytes + self._errors.nbytes

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor | None:
        """The tokens of the largest logits, the first of equal ones.

        Args:
            hidden: ``[num_rows, hidden_size]``, of the weight's dtype.

        Returns:
            ``[num_rows]`` int64; ``None``: there are more than ``MOST_ROWS`` rows, too many tokens
            are left, or a row is not all numbers or next to nothing.
        """
        num_rows = hidden.shape[0]
        if num_rows > MOST_ROWS:
            return None
        tokens, scores = self.candidates(hidden, bar)
        if tokens is None:
            return None
        if len(tokens) == 1:
            return tokens.expand(num_rows)
        padding = tokens[-1:].expand(-len(tokens) % _MULTIPLE)  # equal and behind: never the first
        tokens = torch.cat((tokens, padding))
        logits = self._library.linear(hidden, self._weight[tokens])
        if num_rows > 1:  # what is barred for one may have come by another
            logits.masked_fill_(scores[:, tokens].isneginf(), float("-inf"))
        return tokens[logits.argmax(dim=-1)]

    def candidates(
        self, hidden: torch.Tensor, bar: Bar
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Tokens of which one may have the largest logit, of any row.

        Returns:
            ``[num_candidates]`` int64, ascending, of which there is one at least (``None``: see
            ``greedy``); and scores ``[num_rows, vocab_size]`` float32 that are minus infinity where
            a token is barred.
        """
        rows = hidden.float().contiguous()
        scores = self._library.linear_8_bits(rows, self._numbers)
        bar(scores)
        tokens = self._library.screen(rows, scores, self._scales, self._errors, most=self._most)
        return tokens, scores


def make_screen(
    weight: torch.Tensor, bias: torch.Tensor | None, library: Library | None
) -> Screen | None:
    """``None`` where it would not pay, or not work."""
    if library is None or bias is not None or weight.nbytes < LEAST_BYTES:
        return None
    return Screen(weight.detach(), library) if library.multiplies(weight) else None


def _to_8_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers like ``weight``; for each token a scale, and the largest error for a row of length 1.

    The error has three parts: that of the numbers; what both products lose by rounding, which is at
    most the number of terms by the unit of float32 for each, and that of the logits' own type; and
    what the product of 8 bits rounds a row to, whose largest number is at most its length.
    """
    exact = weight.float()
    scales = exact.abs().amax(dim=1).div(127).clamp(min=torch.finfo(torch.float32).tiny)
    numbers = exact.div(scales[:, None]).round_()
    of_numbers = (exact - numbers * scales[:, None]).norm(dim=1)
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 4 * exact.shape[1] * unit + torch.finfo(weight.dtype).eps / 2
    of_rows = exact.shape[1] ** 0.5 / (2 * STEPS_8_BITS)
    errors = of_numbers + exact.norm(dim=1) * (rounding + of_rows)
    errors *= 1.01  # what was lost in computing this is far less
    return numbers.to(torch.int8), scales, errors
