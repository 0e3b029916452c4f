"""Whose time may have come: found without looking at all sessions."""

from __future__ import annotations

import heapq
from collections.abc import Container

from vlm_sessions.sessions.session import Session

MAX_STALE = 1000
"""Entries of ended sessions, beyond as many as there are open ones."""


class Expiries:
    """Ids of open sessions by a time before which they cannot be over.

    One entry for each session. A renewal does not touch it: it is corrected when it comes up. An
    ended session leaves its entry behind until then, or until there are too many of those.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, session: Session, *, not_before: float = 0.0) -> None:
        heapq.heappush(self._heap, (max(session.expires_at, not_before), session.id))

    def any_due(self, now: float) -> bool:
        return bool(self._heap) and self._heap[0][0] <= now

    def take_due(self, now: float) -> list[str]:
        """Remove and return those that came up; ``add`` again what is not over."""
        due: list[str] = []
        while self.any_due(now):
            due.append(heapq.heappop(self._heap)[1])
        return due

    def drop_stale(self, open_ids: Container[str], num_open: int) -> None:
        """Drop entries of ended sessions, if there are many."""
        if len(self._heap) > 2 * num_open + MAX_STALE:
            self._heap = [entry for entry in self._heap if entry[1] in open_ids]
            heapq.heapify(self._heap)
