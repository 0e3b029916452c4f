"""The next step, prepared while the device still computes the last one.

Of a step that decodes, all but the tokens is known before they are: each conversation goes on by
one, in the blocks that it has. So the host lays out that step, and sends it, instead of waiting.
When the next plan is what was presumed, only the tokens are missing, and those are on the device.
Where it is not, because a turn ended, began or got another block, nothing is lost but the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionBackend, AttentionStep


@dataclass(slots=True)
class Prepared:
    """A step that may come."""

    tokens: torch.Tensor
    """``[num_tokens]`` int64, on the device: one of each conversation."""
    step: AttentionStep
    spans: list[TokenSpan] = field(repr=False)
    """As they were presumed, without their tokens."""

    def fits(self, spans: Sequence[TokenSpan]) -> bool:
        return len(spans) == len(self.spans) and all(map(_goes_on, self.spans, spans))


class Lookahead:
    """Presumes one step at a time.

    Args:
        attention: lays out steps, and does not wait for the device.
    """

    def __init__(self, attention: AttentionBackend, block_size: int) -> None:
        self._attention = attention
        self._block_size = block_size
        self._prepared: Prepared | None = None
        self.num_used = 0
        """Steps that came as they were presumed."""

    def prepare(self, spans: Sequence[TokenSpan], tokens: torch.Tensor) -> None:
        """Presume what comes after a step of ``spans``, of which each drew one of ``tokens``."""
        following = [self._next(span) for span in spans]
        known = [span for span in following if span is not None]
        if len(known) == len(spans) == len(tokens):
            self._prepared = Prepared(tokens, self._attention.plan(known), known)

    def take(self, spans: Sequence[TokenSpan]) -> Prepared | None:
        """What was prepared, if it is this; in any case it is forgotten."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or not prepared.fits(spans):
            return None
        self.num_used += 1
        return prepared

    def _next(self, span: TokenSpan) -> TokenSpan | None:
        start = span.start + len(span.tokens)
        if span.draw is None or start >= len(span.blocks) * self._block_size:
            return None
        return msgspec.structs.replace(span, tokens=(0,), start=start, images=())


def _goes_on(presumed: TokenSpan, span: TokenSpan) -> bool:
    """No turn has two tokens of the same place, so that the drawn one need not be compared."""
    return (
        presumed.turn_id == span.turn_id
        and presumed.start == span.start
        and len(span.tokens) == 1
        and presumed.blocks == span.blocks[: len(presumed.blocks)]  # more may be there for later
    )
