"""What has come to its end, found without looking at all that has not."""

from __future__ import annotations

import heapq


class Expiries:
    """Keys by when they expire, in seconds since the epoch. Not thread-safe.

    A heap, in which entries of what was given up or put off stay until they come up.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Entries, those that stay behind included."""
        return len(self._heap)

    def add(self, key: str, until: float) -> None:
        """Have a key expire then, and not when it was to before."""
        self._until[key] = until
        heapq.heappush(self._heap, (until, key))
        if len(self._heap) > 2 * len(self._until) + 64:
            self._heap = [(until, key) for key, until in self._until.items()]
            heapq.heapify(self._heap)

    def discard(self, key: str) -> None:
        self._until.pop(key, None)

    def take_due(self, now: float) -> list[str]:
        """Take out the keys whose time has come, the earliest first."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            until, key = heapq.heappop(self._heap)
            if self._until.get(key) == until:
                del self._until[key]
                due.append(key)
        return due

    def check_integrity(self, until: dict[str, float]) -> None:
        """Assert that these keys, and no others, expire, each at its time."""
        assert self._until == until
        assert {(time, key) for key, time in until.items()} <= set(self._heap), "each comes up"
