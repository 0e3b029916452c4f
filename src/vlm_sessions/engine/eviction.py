"""What is worth keeping: the policies that choose what goes when a level of the cache is full.

A policy gives each entry a rank, once, when the entry is last used or something else about it
changes; whatever has the lowest rank goes first. Ranks never have to be computed again merely
because time passes, so that eviction stays O(log n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

FIRST_WAIT_SECONDS = 60.0
"""How long a session is silent between two prompts, before any has been seen to be."""
UNRETAINED_WEIGHT = 0.02
"""How likely it is that something is wanted again that no session holds on to, beside something
that one does: another session may begin in the same way."""
_WAIT_MEMORY = 0.05
"""Weight of the newest observation in the mean of waits."""
_SHORTEST_WAIT = 0.1
_LEAST_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that is kept in some level, as a policy sees it."""

    num_bytes: int
    restore_seconds: float
    """What a prompt that needs it would pay to get it back from the next lower level."""
    last_used: float
    """Seconds since the epoch."""
    num_retentions: int = 0
    """How many want it to be kept."""
    until: float = 0.0
    """When the last of them expires, in seconds since the epoch."""
    is_given_up: bool = False
    """The one who wanted it has said that it never will again."""


class EvictionPolicy(Protocol):
    """Chooses what goes. Pure accounting: it neither holds entries nor drops them."""

    def rank(self, entry: Entry, now: float) -> float:
        """The lowest goes first. Comparable among all entries of a level, whenever they were
        ranked; ``now`` never goes back."""
        ...

    def is_worth_storing(self, entry: Entry, fetch_seconds: float) -> bool:
        """Whether an entry that must go is worth room in the next lower level.

        Args:
            entry: as that level would hold it, with what a prompt would pay if it did not.
            fetch_seconds: what a prompt will pay to get it back from there.
        """
        ...

    def note_wait(self, seconds: float) -> None:
        """A session has spoken again after this long."""
        ...


class LRU:
    """The least recently used goes first, whatever it costs and whoever wants it."""

    def rank(self, entry: Entry, now: float) -> float:
        return entry.last_used

    def is_worth_storing(self, entry: Entry, fetch_seconds: float) -> bool:
        return True

    def note_wait(self, seconds: float) -> None:
        pass


class CostAware:
    """What goes first is what costs least time, byte for byte, times how likely that is to be paid.

        value(t) = likelihood · restore_seconds / num_bytes · exp(-(t - last_used) / wait)

    ``wait`` is the mean time, as observed, that a session is silent between two prompts: the longer
    one has been silent beyond that, the likelier it is that nobody is there any more. The
    likelihood is the number of sessions that hold on to an entry, less those that will have expired
    before they speak, and ``UNRETAINED_WEIGHT`` for all others. What was given up goes first.

    The rank is the value's logarithm with ``t`` left out, which is common to all entries: so ranks
    given at different times are comparable. That would not hold if ``last_used / wait`` were taken
    as it stands, for ``wait`` is measured and changes; time is therefore counted in waits, each
    stretch of it by the ``wait`` of its day.
    """

    def __init__(self) -> None:
        self._wait = FIRST_WAIT_SECONDS
        self._now: float | None = None
        self._num_waits = 0.0
        """Since the first entry was ranked."""

    @property
    def wait_seconds(self) -> float:
        return self._wait

    def rank(self, entry: Entry, now: float) -> float:
        self._pass_time(now)
        if entry.is_given_up:
            return -math.inf
        likelihood = UNRETAINED_WEIGHT
        if entry.num_retentions:
            lifetime = max(0.0, entry.until - entry.last_used)
            likelihood += entry.num_retentions * -math.expm1(-lifetime / self._wait)
        seconds = max(entry.restore_seconds, _LEAST_SECONDS)
        age = (now - entry.last_used) / self._wait
        return math.log(likelihood * seconds / entry.num_bytes) + self._num_waits - age

    def is_worth_storing(self, entry: Entry, fetch_seconds: float) -> bool:
        return not entry.is_given_up and fetch_seconds < entry.restore_seconds

    def note_wait(self, seconds: float) -> None:
        self._wait += _WAIT_MEMORY * (max(seconds, _SHORTEST_WAIT) - self._wait)

    def _pass_time(self, now: float) -> None:
        if self._now is not None and now > self._now:
            self._num_waits += (now - self._now) / self._wait
        self._now = now if self._now is None else max(now, self._now)


class Eviction(StrEnum):
    """Policies by the names that settings use."""

    COST = "cost"
    LRU = "lru"


def make_policy(eviction: Eviction) -> EvictionPolicy:
    return CostAware() if eviction is Eviction.COST else LRU()
