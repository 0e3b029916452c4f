"""Which images are wanted again, by whom, until when: retentions as the features see them.

What a session holds on to is a prefix (``retentions.py``) and the images in it, which it needs once
the prefix's KV is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from vlm_sessions.engine.expiries import Expiries


class Wishes:
    """Digests by the keys under which they are wanted. Not thread-safe. Times are in seconds since
    the epoch."""

    def __init__(self) -> None:
        self._digests: dict[str, tuple[str, ...]] = {}
        """key -> what is wanted under it"""
        self._until: dict[str, dict[str, float]] = {}
        """digest -> key -> when that wish expires"""
        self._expiries = Expiries()

    def count(self, digest: str) -> int:
        return len(self._until.get(digest, ()))

    def until(self, digest: str) -> float:
        """When the last wish for it expires; 0: there is none."""
        return max(self._until.get(digest, {}).values(), default=0.0)

    def add(self, key: str, digests: Iterable[str], until: float) -> None:
        """Want images under a key; there must be none under it."""
        assert key not in self._digests, "a wish is replaced by dropping it first"
        self._digests[key] = tuple(dict.fromkeys(digests))
        for digest in self._digests[key]:
            self._until.setdefault(digest, {})[key] = until
        self._expiries.add(key, until)

    def drop(self, key: str) -> tuple[str, ...]:
        """Give up a wish; returns what was wanted."""
        self._expiries.discard(key)
        digests = self._digests.pop(key, ())
        for digest in digests:
            del self._until[digest][key]
            if not self._until[digest]:
                del self._until[digest]
        return digests

    def drop_expired(self, now: float) -> list[str]:
        """Give up all whose time has come; returns what they wanted."""
        return [digest for key in self._expiries.take_due(now) for digest in self.drop(key)]
