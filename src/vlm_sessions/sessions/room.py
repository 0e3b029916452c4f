"""How many sessions there are and may be: in all, and of one owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vlm_sessions.errors import TooManySessions


class Room:
    """Counts open sessions, and those that are just being written, by owner.

    Args:
        most: in all.
        most_per_owner: of one owner; 0: no limit. ``None`` is an owner as well: everybody, while
            there are no keys.
    """

    def __init__(self, *, most: int, most_per_owner: int) -> None:
        self._most = most
        self._most_per_owner = most_per_owner
        self._num = 0
        self._num_of: Counter[str | None] = Counter()

    def check(self, owner: str | None) -> None:
        """Raises:
        TooManySessions: one more session of this owner would be too many.
        """
        if self._num >= self._most:
            raise TooManySessions(
                f"{self._most} sessions are open, which is the limit. Close one, or retry later; "
                "VLM_MAX_SESSIONS raises the limit."
            )
        if self._most_per_owner and self._num_of[owner] >= self._most_per_owner:
            raise TooManySessions(
                f"You have {self._most_per_owner} sessions open, which is the limit for one "
                "client. Close one, or retry later; VLM_MAX_SESSIONS_PER_KEY raises the limit."
            )

    def add(self, owner: str | None) -> None:
        self._num += 1
        self._num_of[owner] += 1

    def remove(self, owner: str | None) -> None:
        self._num -= 1
        self._num_of[owner] -= 1
        if not self._num_of[owner]:
            del self._num_of[owner]

    def check_integrity(self, owners: Iterable[str | None]) -> None:
        """Assert that each open session, of which these are the owners, is counted."""
        assert self._num == sum(self._num_of.values())
        for owner, num_open in Counter(owners).items():
            assert num_open <= self._num_of[owner], "more may just be being written"
