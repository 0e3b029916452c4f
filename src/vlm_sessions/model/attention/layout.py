"""What every backend needs to know of a step: where its tokens go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vlm_sessions.engine.types import TokenSpan


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A step's row, as plain numbers."""

    positions: list[int]
    """Of each token in its conversation."""
    slots: list[int]
    """Where each token's keys and values are written: ``block * block_size + offset``."""


def lay_out(spans: Sequence[TokenSpan], block_size: int) -> RowLayout:
    positions: list[int] = []
    slots: list[int] = []
    for span in spans:
        end = span.start + len(span.tokens)
        assert end <= len(span.blocks) * block_size, "a span comes with blocks for all its tokens"
        positions.extend(range(span.start, end))
        slots.extend(
            span.blocks[position // block_size] * block_size + position % block_size
            for position in range(span.start, end)
        )
    return RowLayout(positions, slots)


def rows_of(spans: Sequence[TokenSpan]) -> list[range]:
    """Each span's rows of the step."""
    ends = accumulate(len(span.tokens) for span in spans)
    return [range(end - len(span.tokens), end) for span, end in zip(spans, ends, strict=True)]
