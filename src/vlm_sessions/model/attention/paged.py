"""The backend for GPUs: a step as one or two calls of a paged kernel, whichever that is.

Every token attends to its own conversation's pages; where several conversations begin with the same
blocks, these are attended to by all their tokens together, read once, and the two parts are merged
(cascade attention: Ye et al., 2024; Juravsky et al., Hydragen, 2024).

Everything here but the kernel is plain torch and runs on a CPU as well, where ``plain_kernel``
takes its place: that is how it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.attention.layout import lay_out
from vlm_sessions.model.attention.paged_call import PagedCall, PagedKernel, merge
from vlm_sessions.model.attention.shared_prefixes import SharedPrefix, find_shared_prefixes
from vlm_sessions.model.kv_cache import KVCache
from vlm_sessions.model.transfer import to_device


@dataclass(frozen=True, slots=True)
class SharedCall:
    """What is attended to together."""

    call: PagedCall
    rows: torch.Tensor
    """``[num_queries]`` int64: rows of the step, packed by prefix; after those, any rows."""
    place: torch.Tensor
    """``[num_tokens]`` int64: where in ``rows`` each row of the step is; 0 if it is not."""
    shares: torch.Tensor
    """``[num_tokens]`` bool: whether it is."""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """``interface.AttentionStep`` over a paged kernel."""

    cache: KVCache
    kernel: PagedKernel
    scale: float
    positions: torch.Tensor
    slots: torch.Tensor
    """``[num_tokens]`` int64."""
    own: PagedCall
    shared: SharedCall | None

    def attend(self, layer: int, queries: torch.Tensor, keys_values: torch.Tensor) -> torch.Tensor:
        self.cache.write(layer, self.slots, keys_values)
        out, lse = self._call(layer, queries, self.own)
        if self.shared is None:
            return out
        common, common_lse = self._call(layer, queries[self.shared.rows], self.shared.call)
        place = self.shared.place
        visible = common_lse[place].masked_fill(~self.shared.shares[:, None], float("-inf"))
        return merge(out, lse, common[place], visible)

    def _call(
        self, layer: int, queries: torch.Tensor, call: PagedCall
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (
            pool[layer].permute(1, 2, 0, 3) for pool in (self.cache.keys, self.cache.values)
        )
        scales = self.cache.scales
        return self.kernel(
            queries,
            keys,
            values,
            call,
            scale=self.scale,
            kv_scales=None if scales is None else scales[layer],
        )


class PagedAttention:
    """``interface.AttentionBackend`` over a cache of ``Layout.TOKENS_FIRST``.

    Args:
        share: whether what several conversations begin with is read once.
    """

    def __init__(
        self, cache: KVCache, kernel: PagedKernel, *, scale: float, share: bool = True
    ) -> None:
        self._cache = cache
        self._kernel = kernel
        self._scale = scale
        self._share = share

    def plan(self, spans: Sequence[TokenSpan]) -> AttentionStep:
        layout = lay_out(spans, self._cache.block_size)
        begun = _begun(spans, self._cache.block_size)
        if begun:
            self._cache.clear(self._send(begun, torch.long))
        shared = find_shared_prefixes(spans, self._cache.block_size) if self._share else []
        return PagedStep(
            cache=self._cache,
            kernel=self._kernel,
            scale=self._scale,
            positions=self._send(layout.positions, torch.long),
            slots=self._send(layout.slots, torch.long),
            own=self._plan_own(spans, shared),
            shared=self._plan_shared(spans, shared) if shared else None,
        )

    def _plan_own(self, spans: Sequence[TokenSpan], shared: Sequence[SharedPrefix]) -> PagedCall:
        """Every span over the blocks that it does not share."""
        num_skipped = [0] * len(spans)
        for prefix in shared:
            for number in prefix.spans:
                num_skipped[number] = len(prefix.blocks)
        size = self._cache.block_size
        tables, lengths = [], []
        for span, skipped in zip(spans, num_skipped, strict=True):
            end = span.start + len(span.tokens)
            tables.append(span.blocks[skipped : -(-end // size)])
            lengths.append(end - skipped * size)
        return self._call([len(span.tokens) for span in spans], tables, lengths, causal=True)

    def _plan_shared(
        self, spans: Sequence[TokenSpan], shared: Sequence[SharedPrefix]
    ) -> SharedCall:
        """The spans of each prefix, as if they were one, over its blocks."""
        first_rows = [0, *accumulate(len(span.tokens) for span in spans)]
        rows: list[int] = []
        counts = []
        for prefix in shared:
            before = len(rows)
            for number in prefix.spans:
                rows.extend(range(first_rows[number], first_rows[number + 1]))
            counts.append(len(rows) - before)
        place, shares = [0] * first_rows[-1], [False] * first_rows[-1]
        for index, row in enumerate(rows):
            place[row], shares[row] = index, True
        tables = [prefix.blocks for prefix in shared]
        lengths = [len(table) * self._cache.block_size for table in tables]
        return SharedCall(
            call=self._call(counts, tables, lengths, causal=False),
            rows=self._send(rows, torch.long),
            place=self._send(place, torch.long),
            shares=self._send(shares, torch.bool),
        )

    def _call(
        self,
        counts: Sequence[int],
        tables: Sequence[tuple[int, ...]],
        lengths: Sequence[int],
        *,
        causal: bool,
    ) -> PagedCall:
        widest = max(map(len, tables))
        return PagedCall(
            starts=self._send([0, *accumulate(counts)], torch.int32),
            tables=self._send([t + (0,) * (widest - len(t)) for t in tables], torch.int32),
            lengths=self._send(lengths, torch.int32),
            max_queries=max(counts),
            max_length=max(lengths),
            causal=causal,
        )

    def _send(self, values: Sequence[object], dtype: torch.dtype) -> torch.Tensor:
        return to_device(values, dtype, self._cache.device)


def _begun(spans: Sequence[TokenSpan], block_size: int) -> list[int]:
    """Blocks that the step writes to the beginning of, and not to the end: what is behind it will
    be read as well."""
    begun = []
    for span in spans:
        end = span.start + len(span.tokens)
        last = (end - 1) // block_size
        if span.start <= last * block_size and end % block_size:
            begun.append(span.blocks[last])
    return begun
