"""Decoding by replay: a CUDA graph for each size of batch, in place of hundreds of launches.

A graph does the same work on the same memory each time. So a decode step is copied into buffers
that stay, padded to the next size that there is a graph for, and replayed. Rows that pad write to
the last block of the pool, which is kept for that and belongs to nobody.

    step of 5 ─▶ copied into the buffers of 8: rows 5, 6, 7 → the scratch block ─▶ replay ─▶ 5 rows

What a graph is, is given from outside: tests give one that calls the function again, on any device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.attention.paged import PagedStep, SharedCall
from vlm_sessions.model.attention.paged_call import PagedCall
from vlm_sessions.model.text.interface import Bar, TextModel

_log = logging.getLogger(__name__)
NUM_SCRATCH_BLOCKS = 1
"""Blocks at the end of the pool that nobody else may use."""

Work = Callable[[], torch.Tensor]
Replay = Callable[[], torch.Tensor]
Capture = Callable[[Work], Replay]
"""Makes of some work on fixed memory a way to do it again, always into the same tensor."""


def batch_sizes(largest: int) -> list[int]:
    """Sizes of batches that have graphs: padding costs at most half, and little for large ones."""
    sizes = [1, 2, 4, 8, *range(16, 64, 16), *range(64, 256, 32), *range(256, largest + 64, 64)]
    return [size for size in sizes if size < largest] + [largest]


class GraphedTextModel:
    """``TextModel`` that replays decode steps of paged attention and leaves all else to another.

    Args:
        inner: computes; its ``forward`` must not look at the device.
        capture: makes graphs, each when it is first needed.
        largest: tokens of the largest batch that is replayed.
        max_context: tokens of the longest conversation.
    """

    def __init__(
        self, inner: TextModel, capture: Capture, *, largest: int, max_context: int
    ) -> None:
        self._inner = inner
        self._capture = capture
        self._sizes = batch_sizes(largest)
        self._max_context = max_context
        self._graphs: dict[tuple[int, bool], _Graph] = {}
        """(rows, whether any of them share a prefix) -> its graph"""
        self._works = True

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._inner.embed(tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._inner.logits(hidden)

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor:
        return self._inner.greedy(hidden, bar)

    def forward(self, embeds: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        if not (self._works and isinstance(step, PagedStep) and self._is_replayed(step)):
            return self._inner.forward(embeds, step)
        size = next(size for size in self._sizes if size >= len(embeds))
        key = (size, step.shared is not None)
        graph = self._graphs.get(key)
        if graph is None or graph.step.cache is not step.cache:
            graph = self._try_to_capture(size, embeds, step)
            if graph is None:
                return self._inner.forward(embeds, step)
            self._graphs[key] = graph
        graph.load(embeds, step)
        return graph.replay()[: len(embeds)]

    def _is_replayed(self, step: PagedStep) -> bool:
        """One token of each conversation, and not too many conversations."""
        return step.own.max_queries == 1 and len(step.positions) <= self._sizes[-1]

    def _try_to_capture(self, size: int, embeds: torch.Tensor, step: PagedStep) -> _Graph | None:
        static = _static_step(size, step, self._max_context)
        buffer = embeds.new_zeros(size, embeds.shape[1])
        try:
            replay = self._capture(lambda: self._inner.forward(buffer, static))
        except RuntimeError:
            _log.warning("decoding cannot be captured in CUDA graphs here", exc_info=True)
            self._works = False
            return None
        return _Graph(buffer, static, replay)


@dataclass(frozen=True, slots=True)
class _Graph:
    """Buffers, and what is done with them."""

    embeds: torch.Tensor
    """``[size, hidden_size]``."""
    step: PagedStep
    """All of it stays where it is; ``load`` writes into it."""
    replay: Replay

    def load(self, embeds: torch.Tensor, step: PagedStep) -> None:
        """Take over a step of at most ``size`` rows."""
        num_rows = len(embeds)
        scratch = _scratch_block(step)
        self.embeds[:num_rows] = embeds
        _fill(self.step.positions, step.positions, rest=0)
        _fill(self.step.slots, step.slots, rest=scratch * step.cache.block_size)
        _fill(self.step.own.lengths, step.own.lengths, rest=1)
        self.step.own.tables[:num_rows, : step.own.tables.shape[1]] = step.own.tables
        self.step.own.tables[num_rows:, 0] = scratch
        if self.step.shared is None or step.shared is None:
            return
        held, new = self.step.shared, step.shared
        _fill(held.call.starts, new.call.starts, rest=len(new.rows))
        _fill(held.call.lengths, new.call.lengths, rest=0)
        held.call.tables[: len(new.call.tables), : new.call.tables.shape[1]] = new.call.tables
        _fill(held.rows, new.rows, rest=0)
        _fill(held.place, new.place, rest=0)
        _fill(held.shares, new.shares, rest=False)


def _fill(buffer: torch.Tensor, values: torch.Tensor, *, rest: float) -> None:
    buffer[: len(values)] = values
    buffer[len(values) :].fill_(rest)


def _scratch_block(step: PagedStep) -> int:
    return step.cache.keys.shape[2] - NUM_SCRATCH_BLOCKS


def _static_step(size: int, step: PagedStep, max_context: int) -> PagedStep:
    """Buffers for any decode step of at most ``size`` rows that shares or not, as this one does.

    All rows pad: a graph may be run before anything is loaded.
    """
    device = step.cache.device
    scratch = _scratch_block(step)
    width = -(-max_context // step.cache.block_size)

    def integers(*shape: int, value: int = 0, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.full(shape, value, dtype=dtype, device=device)

    shared = None
    if step.shared is not None:
        num_prefixes = size // 2  # of two rows at least
        call = PagedCall(
            starts=integers(num_prefixes + 1),
            tables=integers(num_prefixes, width),
            lengths=integers(num_prefixes),
            max_queries=size,
            max_length=max_context,
            causal=False,
        )
        shared = SharedCall(
            call=call,
            rows=integers(size, dtype=torch.long),
            place=integers(size, dtype=torch.long),
            shares=integers(size, dtype=torch.bool),
        )
    own = PagedCall(
        starts=torch.arange(size + 1, dtype=torch.int32, device=device),
        tables=integers(size, width, value=scratch),
        lengths=integers(size, value=1),
        max_queries=1,
        max_length=max_context,
        causal=True,
    )
    slots = integers(size, value=scratch * step.cache.block_size, dtype=torch.long)
    positions = integers(size, dtype=torch.long)
    return replace(step, positions=positions, slots=slots, own=own, shared=shared)


class CudaCapture:
    """``Capture`` for real: graphs that share one pool of memory, since they run one at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Replay:
        """Do the work a few times, so that libraries have loaded their kernels, then capture it.

        Raises:
            RuntimeError: something in it cannot be captured.
        """
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, encoding images for one, is none of its business.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = work()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay
