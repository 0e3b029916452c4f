"""What goes first when room is needed: items by rank, the lowest first, each change O(log n)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", int, str)


class Ranking(Generic[Item]):
    """Items and their ranks. Of two with one rank, the one with the lower order comes first.

    A heap, in which outdated entries stay until they come up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._places: dict[Item, tuple[float, int]] = {}
        """item -> its rank and order"""

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._places)

    def __contains__(self, item: Item) -> bool:
        return item in self._places

    def put(self, item: Item, rank: float, order: int) -> None:
        """Add an item, or give it another rank."""
        place = rank, order
        if self._places.get(item) == place:
            return
        self._places[item] = place
        heapq.heappush(self._heap, (rank, order, item))
        if len(self._heap) > 2 * len(self._places) + 64:
            self._heap = [(rank, order, item) for item, (rank, order) in self._places.items()]
            heapq.heapify(self._heap)

    def discard(self, item: Item) -> None:
        self._places.pop(item, None)

    def lowest(self) -> tuple[float, Item] | None:
        """The first to go, and its rank; ``None``: there is nothing."""
        while self._heap:
            rank, order, item = self._heap[0]
            if self._places.get(item) == (rank, order):
                return rank, item
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Item:
        """Take out the first to go; there must be one."""
        lowest = self.lowest()
        assert lowest is not None, "something is there to go"
        del self._places[lowest[1]]
        return lowest[1]
