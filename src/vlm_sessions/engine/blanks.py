"""Blocks that hold nothing, kept as runs of consecutive numbers and handed out as such.

A conversation whose blocks follow each other lies in one piece of memory, which attention can read
where it lies. So a request is filled from one run wherever one is long enough, and goes on right
behind the blocks that the conversation has already, if those that follow are free. That they are is
likely, since what begins anew begins in the middle of a run: conversations that grow block by block
at the same time do not take each other's next ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator


class BlankBlocks:
    """A set of block numbers. Adding is O(log n), taking O(log n) for each run that it touches.

    Args:
        num_blocks: those from 0 on are blank at first.
    """

    def __init__(self, num_blocks: int) -> None:
        self._lengths: dict[int, int] = {}
        """first block of a run -> how many it has"""
        self._firsts: dict[int, int] = {}
        """last block of a run -> its first"""
        self._longest: list[tuple[int, int]] = []
        """Heap of (-length, first); entries of runs that have changed are skipped."""
        self._num_blocks = 0
        self._put(0, num_blocks)

    def __len__(self) -> int:
        return self._num_blocks

    def __iter__(self) -> Iterator[int]:
        for first, length in self._lengths.items():
            yield from range(first, first + length)

    def add(self, block: int) -> None:
        first, length = block, 1
        before = self._firsts.get(block - 1)
        if before is not None:
            first, length = before, length + self._cut(before)
        if block + 1 in self._lengths:
            length += self._cut(block + 1)
        self._put(first, length)

    def take(self, count: int, *, after: int | None = None) -> list[int]:
        """Take ``count`` blocks, in order: those behind block ``after`` if they are blank, then
        those of the longest runs, from their middle."""
        assert count <= self._num_blocks, "only what is there is taken"
        taken: list[int] = []
        if after is not None and after + 1 in self._lengths:
            taken += self._take_from(after + 1, count)
        while len(taken) < count:
            run, missing = self._longest_run(), count - len(taken)
            room = max(0, self._lengths[run] - missing)
            taken += self._take_from(run, missing, skipped=room // 2)
        return taken

    def _take_from(self, run: int, count: int, *, skipped: int = 0) -> Iterable[int]:
        """Up to so many blocks of a run, behind those of it that are skipped."""
        length = self._cut(run)
        first = run + skipped
        count = min(count, length - skipped)
        self._put(run, skipped)
        self._put(first + count, length - skipped - count)
        return range(first, first + count)

    def _longest_run(self) -> int:
        length, first = self._longest[0]
        while self._lengths.get(first) != -length:
            heapq.heappop(self._longest)
            length, first = self._longest[0]
        return first

    def _put(self, first: int, length: int) -> None:
        if not length:
            return
        self._num_blocks += length
        self._lengths[first] = length
        self._firsts[first + length - 1] = first
        heapq.heappush(self._longest, (-length, first))
        if len(self._longest) > 2 * len(self._lengths) + 64:
            self._longest = [(-length, first) for first, length in self._lengths.items()]
            heapq.heapify(self._longest)

    def _cut(self, first: int) -> int:
        """Take a run out; returns its length."""
        length = self._lengths.pop(first)
        del self._firsts[first + length - 1]
        self._num_blocks -= length
        return length

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        blocks = list(self)
        assert len(set(blocks)) == len(blocks) == self._num_blocks
        assert self._firsts == {f + n - 1: f for f, n in self._lengths.items()}
        assert not any(f + n in self._lengths for f, n in self._lengths.items()), "runs are whole"
        offered = set(self._longest)
        assert all((-n, f) in offered for f, n in self._lengths.items())
