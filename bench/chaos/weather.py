"""Which faults are at work, and so which errors a client may be told: in fair weather, none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BROKEN = "connection broken"
"""Beside the codes of errors: what a client meets where a process on its way has died."""


@dataclass(slots=True)
class _Spell:
    allowed: frozenset[str]
    ended: float | None = None


class Weather:
    """Times are those of ``clock``, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spells: list[_Spell] = []

    def now(self) -> float:
        return self._clock()

    @contextmanager
    def bad(self, allowed: frozenset[str]) -> Iterator[None]:
        """During the block, and for requests that began in it, these ends are no violation."""
        spell = _Spell(allowed)
        self._spells.append(spell)
        try:
            yield
        finally:
            spell.ended = self._clock()

    def excuses(self, end: str, began: float) -> bool:
        """Whether a request that began then, and has just ended so, has met a fault for it."""
        return any(
            end in spell.allowed and (spell.ended is None or spell.ended >= began)
            for spell in self._spells
        )
