"""What every backend needs to know of a step: where tokens go, and which blocks begin with them."""

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
    begun: list[int]
    """Blocks to be cleared first, since the step writes to their beginning and not to their end."""


def lay_out(spans: Sequence[TokenSpan], block_size: int) -> RowLayout:
    positions: list[int] = []
    slots: list[int] = []
    begun: list[int] = []
    for span in spans:
        end = span.start + len(span.tokens)
        num_blocks = -(-end // block_size)
        assert num_blocks <= len(span.blocks), "a span must come with blocks for all its tokens"
        positions.extend(range(span.start, end))
        slots.extend(
            span.blocks[position // block_size] * block_size + position % block_size
            for position in range(span.start, end)
        )
        if span.start <= (num_blocks - 1) * block_size and end % block_size:
            begun.append(span.blocks[num_blocks - 1])
    return RowLayout(positions, slots, begun)


def rows_of(spans: Sequence[TokenSpan]) -> list[range]:
    """Each span's rows of the step."""
    ends = accumulate(len(span.tokens) for span in spans)
    return [range(end - len(span.tokens), end) for span, end in zip(spans, ends, strict=True)]
