"""The sessions that have ended and are still remembered."""

from __future__ import annotations

from collections import deque

from vlm_sessions.sessions.session import Tombstone

MAX_TOMBSTONES = 100_000
"""Remembered at most, some 50 MB: who opens and closes without pause makes the oldest be forgotten
before their time, never the service run out of memory."""


class Tombstones:
    """Tombstones by id, and in the order in which the sessions ended."""

    def __init__(self) -> None:
        self._by_id: dict[str, Tombstone] = {}
        self._in_order: deque[Tombstone] = deque()

    def __len__(self) -> int:
        return len(self._in_order)

    def add(self, tombstone: Tombstone) -> None:
        self._by_id[tombstone.session_id] = tombstone
        self._in_order.append(tombstone)

    def get(self, session_id: str) -> Tombstone | None:
        return self._by_id.get(session_id)

    def check_integrity(self) -> None:
        """Assert that each is found by its id."""
        assert self._by_id == {one.session_id: one for one in self._in_order}

    def drop(self, ended_before: float) -> float | None:
        """Forget those that ended before, and whatever is too many.

        Returns:
            before when all that were dropped had ended; ``None``: there were none.
        """
        if len(self._in_order) > MAX_TOMBSTONES:
            ended_before = max(ended_before, self._in_order[-MAX_TOMBSTONES].ended_at)
        num_before = len(self)
        while self._in_order and self._in_order[0].ended_at < ended_before:
            self._by_id.pop(self._in_order.popleft().session_id, None)
        return ended_before if len(self) < num_before else None
