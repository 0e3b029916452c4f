"""How many tokens of prompts a step may compute, so that nobody is starved.

While nobody decodes, as many as a step may have. While answers are being written, every step that
takes prompts along makes all of them wait for their next token. So prompts get what fits into a
share of the time that a step without them takes (``EngineLimits.prefill_share``), as ``costs.py``
measures it, and never less than ``MIN_PROMPT_TOKENS``, so that a prompt is computed however many
decode, however long. Which prompt gets them is for the planner: the oldest.

An image that is being encoded beside the steps slows them down too, on few cores. What it takes
counts against the same share.
"""

from __future__ import annotations

from vlm_sessions.engine.costs import Costs
from vlm_sessions.engine.limits import EngineLimits

MIN_PROMPT_TOKENS = 8
"""In every step in which a prompt waits and others decode: slow, but it comes to an end."""
MAX_GROWTH = 2
"""What few tokens cost says little about what many would: a step has at most so many times the
tokens of the largest of those that were measured."""


class Pacer:
    """Gives each step its number of prompt tokens, from what is known of the costs by then."""

    def __init__(self, limits: EngineLimits, costs: Costs) -> None:
        self._costs = costs
        self._max_tokens = limits.max_batch_tokens
        self._share = limits.prefill_share

    def max_prompt_tokens(self, num_decodes: int, *, beside_encoding: bool) -> int:
        """For a step in which so many turns decode, while an image is being encoded or not."""
        if not num_decodes or not self._share:
            return self._max_tokens
        affordable = self._affordable(num_decodes, beside_encoding=beside_encoding)
        most = max(MIN_PROMPT_TOKENS, MAX_GROWTH * self._costs.most_mixed_tokens())
        return min(max(affordable, MIN_PROMPT_TOKENS), most, self._max_tokens)

    def _affordable(self, num_decodes: int, *, beside_encoding: bool) -> int:
        """Tokens that fit into the share of a step; 0 as long as too little is measured."""
        alone = self._costs.decode_seconds(num_decodes, beside_encoding=False)
        now = self._costs.decode_seconds(num_decodes, beside_encoding=beside_encoding)
        token = self._costs.mixed_token_seconds()
        if alone is None or now is None or token is None:
            return 0
        if not token:
            return self._max_tokens  # too quick for the clock
        return int(max((1 + self._share) * alone - now, 0.0) / token)
