"""A step of few rows by our kernel in C: one call for each layer, or for all (``text/native.py``).

The step is laid out as numbers once: which runs of slots which rows read. Rows that begin with the
same blocks are a family, whose common runs are read for all of them at once. Another run is read by
one row alone, or by the rows of a prompt, each of which sees one key more than the one before.

    family        rows 0, 1, 2
      part        all      slots 700 … 1275     their picture
      part        row 0    slots 32 … 40
      part        rows 1, 2    slots 96 … 111    a prompt of two tokens: they see 15 and 16

Keys and values of the step itself are written first, and read from their slots like all others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionBackend, AttentionStep
from vlm_sessions.model.attention.layout import lay_out, rows_of
from vlm_sessions.model.attention.runs import RunAttention, cut_runs
from vlm_sessions.model.attention.shared_prefixes import find_shared_prefixes
from vlm_sessions.model.kv_cache import KVCache
from vlm_sessions.model.native.library import Library, StepStruct

FEW_ROWS = 64
MANY_ROWS = 192
"""With more, the tokens of prompts attend to each other more than to what was before them, and
torch's products are faster."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run that rows of a family read."""

    first_row: int
    """In the family."""
    num_rows: int
    first_slot: int
    length: int
    visible: int
    """Row ``r`` sees the first ``visible + r`` slots: none below 1, all from ``length`` on."""


@dataclass(frozen=True, slots=True)
class Family:
    """Rows of a step that are computed together."""

    rows: tuple[int, ...]
    parts: tuple[Part, ...]


class FlatAttention:
    """``AttentionBackend`` for steps of few rows; others go another way.

    Args:
        cache: of ``Layout.HEADS_FIRST``, in host memory.
        scale: of the scores, before the softmax.
    """

    def __init__(
        self, library: Library, cache: KVCache, otherwise: RunAttention, *, scale: float
    ) -> None:
        self._library = library
        self._cache = cache
        self._otherwise: AttentionBackend = otherwise
        self._max_rows = MANY_ROWS if library.attends_many(cache.keys.dtype) else FEW_ROWS
        self._scale = scale

    def plan(self, spans: Sequence[TokenSpan]) -> AttentionStep:
        if sum(len(span.tokens) for span in spans) > self._max_rows:
            return self._otherwise.plan(spans)
        layout = lay_out(spans, self._cache.block_size)
        families = find_families(spans, self._cache.block_size)
        return FlatStep(
            self._library,
            self._cache,
            positions=torch.tensor(layout.positions),
            slots=torch.tensor(layout.slots),
            families=families,
            scale=self._scale,
        )


class FlatStep:
    """``AttentionStep`` of a ``FlatAttention``. Holds the memory that its structure points to."""

    def __init__(
        self,
        library: Library,
        cache: KVCache,
        *,
        positions: torch.Tensor,
        slots: torch.Tensor,
        families: Sequence[Family],
        scale: float,
    ) -> None:
        self.positions = positions
        self.cache = cache
        self._library = library
        self._slots = slots
        self._families = families
        self._scale = scale
        self._numbers: list[torch.Tensor] = []
        self._struct: StepStruct | None = None

    def attend(self, layer: int, queries: torch.Tensor, keys_values: torch.Tensor) -> torch.Tensor:
        struct = self.struct(queries.shape[1])
        return self._library.attend_step(struct, queries, keys_values, self.cache.slots(layer))

    def struct(self, num_heads: int) -> StepStruct:
        """The step as numbers, for so many heads of queries."""
        if self._struct is None:
            self._struct = self._lay_out(num_heads)
        return self._struct

    def _lay_out(self, num_heads: int) -> StepStruct:
        _, _, num_kv_heads, num_blocks, block_size, dim = self.cache.bits.shape
        families: list[tuple[int, ...]] = []
        parts: list[tuple[int, ...]] = []
        first_row = 0
        for family in self._families:
            families.append((first_row, len(family.rows), len(parts), len(family.parts)))
            parts += [
                (p.first_row, p.num_rows, p.first_slot, p.length, p.visible) for p in family.parts
            ]
            first_row += len(family.rows)
        order = [row for family in self._families for row in family.rows]
        self._numbers = [self._slots, *map(torch.tensor, (order, families, parts))]
        return StepStruct(
            len(order),
            num_kv_heads,
            num_heads // num_kv_heads,
            dim,
            num_blocks * block_size,
            len(families),
            torch.get_num_threads(),
            self._scale,
            *(ctypes.c_void_p(numbers.data_ptr()) for numbers in self._numbers),
        )


def find_families(spans: Sequence[TokenSpan], block_size: int) -> list[Family]:
    """Every row of a step, in one family each."""
    rows = rows_of(spans)
    shared = find_shared_prefixes(spans, block_size)
    alone = set(range(len(spans))) - {number for prefix in shared for number in prefix.spans}
    members: list[tuple[tuple[int, ...], int]] = [((number,), 0) for number in sorted(alone)]
    members += [(prefix.spans, len(prefix.blocks)) for prefix in shared]
    families = []
    for numbers, num_shared in members:
        common = spans[numbers[0]].blocks[:num_shared]
        all_rows = tuple(row for number in numbers for row in rows[number])
        parts = [
            Part(0, len(all_rows), run.start, len(run), len(run))
            for run in cut_runs(common, num_shared * block_size, block_size)
        ]
        first_row = 0
        for number in numbers:
            parts += _own(spans[number], first_row, num_shared, block_size)
            first_row += len(rows[number])
        families.append(Family(all_rows, tuple(parts)))
    return families


def _own(span: TokenSpan, first_row: int, num_shared: int, block_size: int) -> list[Part]:
    """What a span reads besides the blocks that it shares; each row sees up to itself."""
    parts = []
    position = num_shared * block_size
    end = span.start + len(span.tokens)
    for run in cut_runs(span.blocks[num_shared:], end - position, block_size):
        seen = span.start + 1 - position
        parts.append(Part(first_row, len(span.tokens), run.start, len(run), seen))
        position += len(run)
    return parts
