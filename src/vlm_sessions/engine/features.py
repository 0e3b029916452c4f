"""Image features on the device and behind it on the host, each within its budget.

It knows digests and sizes, not where an image stands in a conversation. Features of the device are
in use or freeable; freeable ones leave it when room is needed, what the policy (``eviction.py``)
ranks lowest first: to the host, if that has room for them or holds what is worth less, and from
there to nowhere. An image is in one of the two places at most.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vlm_sessions.engine.eviction import CostAware, Entry, EvictionPolicy
from vlm_sessions.engine.prices import Prices
from vlm_sessions.engine.ranking import Ranking
from vlm_sessions.engine.wishes import Wishes


@dataclass(frozen=True, slots=True)
class FeatureMoves:
    """What the runner does before it encodes, in this order. All are digests."""

    offload: tuple[str, ...]
    """From the device to the host."""
    drop: tuple[str, ...]
    """From the device."""
    forget: tuple[str, ...]
    """From the host."""
    restore: tuple[str, ...]
    """From the host to the device."""


class FeatureCache:
    """Accounting for the features that the runner holds, by digest. Not thread-safe.

    Args:
        budget_bytes: of the device.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        budget_bytes: int,
        bytes_per_token: int,
        *,
        host_budget_bytes: int = 0,
        policy: EvictionPolicy | None = None,
        prices: Prices | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.host_budget_bytes = host_budget_bytes
        self.num_evicted = 0
        """Features that left the device to make room."""
        self.num_host_evicted = 0
        self.num_restored = 0
        self._bytes_per_token = bytes_per_token
        self._policy = CostAware() if policy is None else policy
        self._prices = Prices() if prices is None else prices
        self._clock = clock
        self._sizes: dict[str, int] = {}
        """digest -> bytes, on the device"""
        self._stored: dict[str, int] = {}
        """digest -> bytes, on the host"""
        self._num_users: Counter[str] = Counter()
        self._num_bytes = self._num_freeable_bytes = self._num_stored_bytes = 0
        self._freeable: Ranking[str] = Ranking()
        self._ranking: Ranking[str] = Ranking()
        """Of the host."""
        self._used: dict[str, tuple[float, int]] = {}
        """digest -> when it was used last, and the how-manieth use that was"""
        self._num_uses = 0
        self._given_up: set[str] = set()
        self._wishes = Wishes()
        self._offload: dict[str, None] = {}
        self._drop: dict[str, None] = {}
        self._forget: dict[str, None] = {}
        self._restore: dict[str, None] = {}

    def __contains__(self, digest: str) -> bool:
        """Whether features are on the device."""
        return digest in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def is_stored(self, digest: str) -> bool:
        """Whether features are on the host."""
        return digest in self._stored

    @property
    def num_stored(self) -> int:
        return len(self._stored)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def num_stored_bytes(self) -> int:
        return self._num_stored_bytes

    @property
    def has_moves(self) -> bool:
        """Whether the runner still has to be told of features that went."""
        return bool(self._offload or self._drop or self._forget or self._restore)

    def users(self) -> dict[str, int]:
        """How often each digest in use was acquired, digest -> count."""
        return dict(self._num_users)

    # --- use ------------------------------------------------------------------------------------

    def acquire(self, digest: str) -> None:
        """Use features that are on the device; each call wants its ``release``."""
        if digest in self._freeable:
            self._freeable.discard(digest)
            self._num_freeable_bytes -= self._sizes[digest]
        self._num_users[digest] += 1

    def try_add(self, digest: str, num_tokens: int) -> bool:
        """Account for features about to be made, and acquire them.

        Has freeable ones make room. Returns ``False``, and changes nothing, when those in use leave
        no room. With none in use there is room for an image of any size.
        """
        assert digest not in self._sizes, "features are added once"
        size = num_tokens * self._bytes_per_token
        in_use = self._num_bytes - self._num_freeable_bytes
        if in_use and in_use + size > self.budget_bytes:
            return False
        self._make_room(size)
        self._sizes[digest] = size
        self._num_bytes += size
        self._num_users[digest] += 1
        return True

    def try_restore(self, digest: str) -> bool:
        """Bring features back from the host, and acquire them, as ``try_add`` does."""
        size = self._stored[digest]
        self._ranking.discard(digest)  # not to be given up for what makes room for it
        if not self.try_add(digest, size // self._bytes_per_token):
            self._rank(digest)
            return False
        del self._stored[digest]
        self._num_stored_bytes -= size
        self._restore[digest] = None
        self.num_restored += 1
        return True

    def release(self, digest: str) -> None:
        """End one use. Features that nobody uses stay while there is room."""
        assert self._num_users[digest] > 0, "features are released as often as they were acquired"
        self._num_users[digest] -= 1
        if self._num_users[digest]:
            return
        del self._num_users[digest]
        self._num_freeable_bytes += self._sizes[digest]
        self._touch(digest)
        self._rank(digest)
        self._make_room(0)

    def take_moves(self) -> FeatureMoves:
        """What went where since the last call."""
        moves = FeatureMoves(
            tuple(self._offload), tuple(self._drop), tuple(self._forget), tuple(self._restore)
        )
        self._offload, self._drop, self._forget, self._restore = {}, {}, {}, {}
        return moves

    def clear(self) -> None:
        """Give up all features that nobody uses."""
        for digest in tuple(self._stored):
            self._forget_stored(digest)
        for digest in tuple(self._freeable):
            self._leave(digest)
            self._lose(digest, self._drop)

    # --- wishes ---------------------------------------------------------------------------------

    def retain(self, key: str, digests: Iterable[str], until: float) -> None:
        """A session that holds on to these images has spoken just now."""
        self.release_wish(key)
        if until <= self._clock():
            return
        wanted = tuple(digests)
        self._wishes.add(key, wanted, until)
        for digest in wanted:
            if digest in self._used or digest in self._sizes:
                self._touch(digest)
            self._rank(digest)

    def release_wish(self, key: str, *, is_given_up: bool = False) -> None:
        """Nothing is wanted under this key any more.

        Args:
            is_given_up: what nobody else wants is the first to go.
        """
        for digest in self._wishes.drop(key):
            if is_given_up and not self._wishes.count(digest):
                self._given_up.add(digest)
            self._rank(digest)

    def expire(self) -> None:
        """Give up the wishes whose time has come."""
        for digest in self._wishes.drop_expired(self._clock()):
            self._rank(digest)

    # --- room -----------------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        while self._freeable and self._num_bytes + size > self.budget_bytes:
            lowest = self._freeable.lowest()
            assert lowest is not None
            digest = lowest[1]
            self.num_evicted += 1
            size_of_it = self._leave(digest)
            if self._make_room_on_host(digest, size_of_it):
                self._stored[digest] = size_of_it
                self._num_stored_bytes += size_of_it
                self._offload[digest] = None
                self._rank(digest)
            else:
                self._lose(digest, self._drop)

    def _leave(self, digest: str) -> int:
        """Take features off the device's account; returns their size."""
        self._freeable.discard(digest)
        size = self._sizes.pop(digest)
        self._num_bytes -= size
        self._num_freeable_bytes -= size
        return size

    def _make_room_on_host(self, digest: str, size: int) -> bool:
        if size > self.host_budget_bytes:
            return False
        entry = self._entry(digest, size, is_stored=True)
        if not self._policy.is_worth_storing(entry, self._prices.copy(size)):
            return False
        rank = self._policy.rank(entry, self._clock())
        while self._num_stored_bytes + size > self.host_budget_bytes:
            lowest = self._ranking.lowest()
            if lowest is None or lowest[0] > rank:
                return False
            self.num_host_evicted += 1
            self._forget_stored(lowest[1])
        return True

    def _forget_stored(self, digest: str) -> None:
        self._ranking.discard(digest)
        self._num_stored_bytes -= self._stored.pop(digest)
        self._lose(digest, self._forget)

    def _lose(self, digest: str, told: dict[str, None]) -> None:
        told[digest] = None
        self._used.pop(digest, None)
        self._given_up.discard(digest)

    def _touch(self, digest: str) -> None:
        self._num_uses += 1
        self._used[digest] = self._clock(), self._num_uses
        self._given_up.discard(digest)

    def _rank(self, digest: str) -> None:
        """Put features up for eviction where they are, if they can be evicted."""
        if digest in self._stored:
            size, ranking = self._stored[digest], self._ranking
        elif digest in self._sizes and digest not in self._num_users:
            size, ranking = self._sizes[digest], self._freeable
        else:
            return
        entry = self._entry(digest, size, is_stored=digest in self._stored)
        ranking.put(digest, self._policy.rank(entry, self._clock()), self._used[digest][1])

    def _entry(self, digest: str, size: int, *, is_stored: bool) -> Entry:
        """Features as a policy sees them, if they are or were kept there."""
        seconds = self._prices.encode(size // self._bytes_per_token)
        if size <= self.host_budget_bytes and not is_stored:
            seconds = min(seconds, self._prices.copy(size))
        return Entry(
            num_bytes=size,
            restore_seconds=seconds,
            last_used=self._used[digest][0],
            num_retentions=self._wishes.count(digest),
            until=self._wishes.until(digest),
            is_given_up=digest in self._given_up,
        )

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        assert self._num_bytes == sum(self._sizes.values())
        assert self._num_freeable_bytes == sum(self._sizes[d] for d in self._freeable)
        assert set(self._sizes) == set(self._freeable) | set(self._num_users)
        assert not set(self._freeable) & set(self._num_users)
        assert all(count > 0 for count in self._num_users.values())
        if self._num_bytes > self.budget_bytes:
            assert not self._freeable, "nothing freeable is kept beyond the budget"
            assert len(self._num_users) == 1, "only one image may be larger than the budget"
        assert not set(self._sizes) & set(self._stored), "features are in one place"
        assert set(self._ranking) == set(self._stored)
        assert self._num_stored_bytes == sum(self._stored.values()) <= self.host_budget_bytes
        assert set(self._used) <= set(self._sizes) | set(self._stored)
