"""The backend for CPUs: contexts are read where they lie, and what several share is read once.

A block table is cut into runs of blocks that follow each other in the pool. Because the pool has
heads first, a run is, head by head, a matrix that can be multiplied as it is. Only what lies
scattered in short runs is copied.

    table     7  8  9 10 11   3   20 21 22 23
    runs     [7 … 11]        [3] [20 … 23]

The allocator does its part: it hands out blank blocks in runs (``engine/blanks.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.attention.layout import lay_out, rows_of
from vlm_sessions.model.attention.pieces import (
    Gather,
    Kernel,
    Layer,
    Merge,
    Own,
    Piece,
    Run,
    Split,
)
from vlm_sessions.model.attention.shared_prefixes import find_shared_prefixes
from vlm_sessions.model.kv_cache import KVCache

MIN_RUN = 64
"""Tokens. Two neighbouring runs that are both shorter are copied together: a call costs about as
much as copying so many."""


@dataclass(frozen=True, slots=True)
class _Step:
    cache: KVCache
    kernel: Kernel
    scale: float
    positions: torch.Tensor
    slots: torch.Tensor
    children: list[tuple[int, Piece]]
    """The number of tokens of each, in the order of ``order``."""
    order: torch.Tensor | None
    """``[num_tokens]`` int64: rows of the step as ``children`` want them; ``None``: as they are."""

    def attend(self, layer: int, queries: torch.Tensor, keys_values: torch.Tensor) -> torch.Tensor:
        self.cache.write(layer, self.slots, keys_values)
        num_tokens, num_heads, head_dim = queries.shape
        num_kv_heads = keys_values.shape[1] // 2
        num_shared = num_heads // num_kv_heads
        ordered = queries if self.order is None else queries.index_select(0, self.order)
        rows = ordered.view(num_tokens, num_kv_heads, num_shared, head_dim)
        rows = rows.transpose(0, 1).flatten(1, 2)
        read = Layer(self.cache.slots(layer), keys_values, self.kernel, self.scale)
        sizes = [num * num_shared for num, _ in self.children]
        parts = [
            piece.attend(part, read)[0]
            for part, (_, piece) in zip(torch.split(rows, sizes, dim=1), self.children, strict=True)
        ]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        attended = attended.reshape(num_kv_heads, num_tokens, num_shared, head_dim)
        attended = attended.transpose(0, 1).flatten(1, 2)
        if self.order is None:
            return attended
        return torch.empty_like(attended).index_copy_(0, self.order, attended)


class RunAttention:
    """``interface.AttentionBackend`` over a cache of ``Layout.HEADS_FIRST`` in host memory.

    Args:
        scale: of the scores, before the softmax.
    """

    def __init__(self, cache: KVCache, kernel: Kernel, *, scale: float) -> None:
        self._cache = cache
        self._scale = scale
        self._kernel = kernel

    def plan(self, spans: Sequence[TokenSpan]) -> AttentionStep:
        layout = lay_out(spans, self._cache.block_size)
        families = self._families(spans)
        children = [(sum(len(rows) for rows in members), piece) for members, piece in families]
        order = [row for members, _ in families for rows in members for row in rows]
        in_order = all(row < later for row, later in pairwise(order))
        return _Step(
            cache=self._cache,
            kernel=self._kernel,
            scale=self._scale,
            positions=torch.tensor(layout.positions),
            slots=torch.tensor(layout.slots),
            children=children,
            order=None if in_order else torch.tensor(order),
        )

    def _families(self, spans: Sequence[TokenSpan]) -> list[tuple[list[range], Piece]]:
        """Spans that share a prefix together, each other one alone: their rows, and how they
        attend."""
        size = self._cache.block_size
        rows = rows_of(spans)
        shared = find_shared_prefixes(spans, size)
        num_shared = {number: len(prefix.blocks) for prefix in shared for number in prefix.spans}
        own = [
            _merge(self._own(span, rows[number], num_shared.get(number, 0)))
            for number, span in enumerate(spans)
        ]
        families = [
            ([rows[number]], own[number])
            for number in range(len(spans))
            if number not in num_shared
        ]
        for prefix in shared:
            members = [rows[number] for number in prefix.spans]
            rest = Split([(len(rows[number]), own[number]) for number in prefix.spans])
            common = self._pieces(prefix.blocks, len(prefix.blocks) * size)
            families.append((members, _merge([*common, rest])))
        return sorted(families, key=lambda family: family[0][0].start)

    def _own(self, span: TokenSpan, rows: range, num_shared_blocks: int) -> list[Piece]:
        """What a span reads besides the blocks that it shares."""
        size = self._cache.block_size
        single = len(rows) == 1
        # The only token of a span sees itself where it was just written, at the end of a run.
        length = span.start + single - num_shared_blocks * size
        pieces = self._pieces(span.blocks[num_shared_blocks:], length)
        return pieces if single else [*pieces, Own(slice(rows.start, rows.stop))]

    def _pieces(self, blocks: Sequence[int], length: int) -> list[Piece]:
        """The first ``length`` tokens of a table: long runs as they lie, short ones gathered."""
        pieces: list[Piece] = []
        runs = cut_runs(blocks, length, self._cache.block_size)
        for is_short, alike in groupby(runs, key=lambda run: len(run) < MIN_RUN):
            together = list(alike)
            if is_short and len(together) > 1:
                pieces.append(Gather(torch.tensor([slot for run in together for slot in run])))
            else:
                pieces += [Run(run.start, len(run)) for run in together]
        return pieces


def cut_runs(blocks: Sequence[int], length: int, block_size: int) -> list[range]:
    """The slots of a table's first ``length`` tokens, in order, as runs."""
    needed = blocks[: -(-length // block_size)]
    if not needed:
        return []
    breaks = [index for index, (a, b) in enumerate(pairwise(needed), 1) if b != a + 1]
    runs = []
    for begin, end in pairwise((0, *breaks, len(needed))):
        first = needed[begin] * block_size
        runs.append(range(first, first + min(end * block_size, length) - begin * block_size))
    return runs


def _merge(pieces: Sequence[Piece]) -> Piece:
    return pieces[0] if len(pieces) == 1 else Merge(pieces)
