"""Which prefixes are wanted again, by whom, until when.

A retention stands at the last block of its prefix, the tip, and at no other: so it costs the same
however long the prefix is, and however many others share it. Several may stand at one block. What
a retention is worth when room is needed is for ``eviction.py`` to say.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vlm_sessions.engine.expiries import Expiries


@dataclass(slots=True)
class _Retention:
    until: float
    tip: int
    since: float


class Retentions:
    """Retentions by key. Not thread-safe. Times are in seconds since the epoch."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Retention] = {}
        self._keys: dict[int, set[str]] = {}
        """tip -> keys of the retentions that stand there"""
        self._until: dict[int, float] = {}
        """tip -> the latest of their expiries"""
        self._expiries = Expiries()

    def __contains__(self, block: int) -> bool:
        """Whether a retention stands at this block."""
        return block in self._keys

    def tips(self) -> Collection[int]:
        """The blocks at which retentions stand."""
        return self._keys.keys()

    def until(self, block: int) -> float:
        """When the last retention at this block expires; 0: there is none."""
        return self._until.get(block, 0.0)

    def count(self, block: int) -> int:
        """How many stand at this block."""
        return len(self._keys.get(block, ()))

    def since(self, key: str) -> float | None:
        """When the retention under a key was added; ``None``: there is none."""
        retention = self._by_key.get(key)
        return None if retention is None else retention.since

    def add(self, key: str, tip: int, until: float, since: float) -> None:
        """Let a retention stand at ``tip``; there must be none under ``key``."""
        assert key not in self._by_key, "a retention is replaced by dropping it first"
        self._by_key[key] = _Retention(until, tip, since)
        self._keys.setdefault(tip, set()).add(key)
        self._until[tip] = max(self.until(tip), until)
        self._expiries.add(key, until)

    def drop(self, key: str) -> int | None:
        """Give up a retention; returns where it stood. ``None``: there was none."""
        self._expiries.discard(key)
        retention = self._by_key.pop(key, None)
        if retention is None:
            return None
        tip = retention.tip
        keys = self._keys[tip]
        keys.discard(key)
        if not keys:
            del self._keys[tip], self._until[tip]
        elif retention.until >= self._until[tip]:
            self._until[tip] = max(self._by_key[other].until for other in keys)
        return tip

    def drop_expired(self, now: float) -> list[int]:
        """Give up all whose time has come; returns where they stood."""
        due = self._expiries.take_due(now)
        return [tip for key in due if (tip := self.drop(key)) is not None]

    def move(self, block: int, parent: int | None) -> None:
        """Have those at ``block``, which goes, stand at ``parent``; ``None``: give them up."""
        keys = self._keys.pop(block, None)
        if keys is None:
            return
        until = self._until.pop(block)
        if parent is None:
            for key in keys:
                del self._by_key[key]
                self._expiries.discard(key)
            return
        for key in keys:
            self._by_key[key].tip = parent
        self._keys.setdefault(parent, set()).update(keys)
        self._until[parent] = max(self.until(parent), until)

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        self._expiries.check_integrity({key: kept.until for key, kept in self._by_key.items()})
        for key, retention in self._by_key.items():
            assert key in self._keys[retention.tip]
        assert sum(map(len, self._keys.values())) == len(self._by_key)
        assert self._until == {
            block: max(self._by_key[key].until for key in keys)
            for block, keys in self._keys.items()
        }
