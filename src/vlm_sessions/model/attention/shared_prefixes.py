"""Which conversations of a step begin with the same blocks, so that these need be read only once.

Sessions on one picture have its blocks in common, and the system's text before it. Of a tree of
such beginnings one cut is taken: that which saves the most reading.

      system ─┬─ picture A ─┬─ session 1        shared by 1 and 2: system and picture A
              │             └─ session 2        by 3 and 4:        system and picture B
              └─ picture B ─┬─ session 3
                            └─ session 4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vlm_sessions.engine.types import TokenSpan

LEAST_SAVED = 256
"""Tokens that need not be read again: below it, reading them is cheaper than putting the two parts
of the attention together."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Blocks that come first in the tables of several spans, and end before any of them starts."""

    spans: tuple[int, ...]
    """Numbers of the spans, ascending."""
    blocks: tuple[int, ...]


def find_shared_prefixes(spans: Sequence[TokenSpan], block_size: int) -> list[SharedPrefix]:
    """Beginnings to be read once. No span is in two of them."""
    if len(spans) < 2:
        return []
    candidates = sorted(
        (span.blocks[: span.start // block_size], number) for number, span in enumerate(spans)
    )
    found: list[SharedPrefix] = []
    for _, alike in groupby((c for c in candidates if c[0]), key=lambda c: c[0][0]):
        found += _best_cut(list(alike))[1]
    return [
        shared
        for shared in found
        if (len(shared.spans) - 1) * len(shared.blocks) * block_size >= LEAST_SAVED
    ]


def _best_cut(
    alike: list[tuple[tuple[int, ...], int]],
) -> tuple[int, list[SharedPrefix]]:
    """What is saved at best, in blocks, and how.

    Args:
        alike: tables and numbers of spans in the order of their tables, of which all begin alike.
    """
    if len(alike) == 1:
        return 0, []
    depth = _num_common(alike[0][0], alike[-1][0])
    here = (len(alike) - 1) * depth
    deeper, parts = 0, []
    for _, branch in groupby((c for c in alike if len(c[0]) > depth), key=lambda c: c[0][depth]):
        saved, cut = _best_cut(list(branch))
        deeper += saved
        parts += cut
    if deeper > here:
        return deeper, parts
    numbers = tuple(sorted(number for _, number in alike))
    return here, [SharedPrefix(numbers, alike[0][0][:depth])]


def _num_common(first: tuple[int, ...], last: tuple[int, ...]) -> int:
    """Of sorted tables, the first and the last have in common what all have."""
    for index, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return index
    return min(len(first), len(last))
