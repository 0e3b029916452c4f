"""The KV block pool's accounting: which block holds what, who uses it, which one goes next.

It knows block numbers and hashes; neither the memory behind them nor the turns that use them.

Cached blocks form a tree: a block's parent holds the tokens before its own. Only leaves are ever
evicted, so that a prefix loses its tail before its head and no cached block is out of reach. A
block is always in exactly one of three states:

    blank ──try_reserve──▶ in use ──commit──▶ in use, named ──free──▶ cached
      ▲                      │ free                   ▲                 │  │
      └──────────────────────┘                        └──try_reserve────┘  │
      ▲                                                                    │
      └─────────────────────────── evicted by try_reserve ─────────────────┘

What is taken first: blank blocks; then cached leaves that no retention protects, least recently
used first; then retained ones, the earliest expiry first. A retention (``retentions.py``) stands at
the last block of its prefix only, which protects all blocks before it, since those are no leaves;
when that block is evicted all the same, the retention moves to its parent.

Only full blocks are named. Reusing a partly filled last block to the exact token fits in as one
more kind of leaf, found by comparing tokens under its parent and copied rather than shared.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_sessions.engine.retentions import Retentions

_NONE = -1


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks that now belong to the caller, each to be given back by ``free``."""

    cached: tuple[int, ...]
    """Hold the reused prefix; shared, never to be written."""
    fresh: tuple[int, ...]
    """Hold nothing of use; the caller's alone until committed."""

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.cached + self.fresh


class BlockPool:
    """Accounting for ``num_blocks`` blocks of ``block_size`` tokens. Not thread-safe.

    Args:
        clock: seconds since the epoch, against which retentions expire.
    """

    def __init__(
        self, num_blocks: int, block_size: int, clock: Callable[[], float] = time.time
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("a pool needs at least one block of at least one token")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_evicted = 0
        """Cached blocks that were given up to make room, since the pool was made."""
        self._clock = clock
        self._num_users = [0] * num_blocks
        self._hash: list[bytes | None] = [None] * num_blocks
        self._parent = [_NONE] * num_blocks
        self._num_children = [0] * num_blocks
        self._last_used = [0] * num_blocks
        self._retentions = Retentions()
        self._by_hash: dict[bytes, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._leaves: list[tuple[float, int, int]] = []
        """Heap of (until, last used, block); outdated entries are skipped when they come up."""
        self._num_cached = 0
        self._tick = 0

    # --- counts ---------------------------------------------------------------------------------

    @property
    def num_available(self) -> int:
        """Blocks that a reservation could get: blank and cached ones."""
        return len(self._blank) + self._num_cached

    @property
    def num_in_use(self) -> int:
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        """Blocks that hold a reusable prefix and are used by nobody."""
        return self._num_cached

    def count_retained(self) -> int:
        """Cached blocks that a retention protects. Walks them all: for figures, not for steps."""
        self.expire()
        seen: set[int] = set()
        for tip in self._retentions.tips():
            block = tip
            while block != _NONE and block not in seen:
                seen.add(block)
                block = self._parent[block]
        return sum(1 for block in seen if self._num_users[block] == 0)

    def num_users(self, block: int) -> int:
        return self._num_users[block]

    # --- reuse, reserve, commit, free -----------------------------------------------------------

    def match(self, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """The blocks of the longest cached prefix of ``hashes``. Changes nothing."""
        found = []
        for block_hash in hashes:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def try_reserve(self, cached: Sequence[int], num_fresh: int) -> Reservation | None:
        """Take the blocks ``cached``, which ``match`` gave just now, and ``num_fresh`` others.

        Returns ``None``, and changes nothing, when there are not enough blocks. Evicts cached
        blocks when there are no blank ones left, but never one of ``cached``.
        """
        num_idle = sum(1 for block in cached if self._num_users[block] == 0)
        if self.num_available - num_idle < num_fresh:
            return None
        for block in cached:
            self._num_users[block] += 1
        self._num_cached -= num_idle
        fresh = tuple(self._take_blank() for _ in range(num_fresh))
        return Reservation(tuple(cached), fresh)

    def commit(self, block: int, block_hash: bytes, parent: int | None) -> int:
        """Name a block of the caller's that is now full; returns the block to use from now on.

        When another block already has this name, the caller's becomes blank and the caller shares
        the other one. ``parent`` is the block before it, committed, held by the caller; ``None``
        for the first of a prefix.
        """
        assert self._num_users[block] == 1, "a block is committed by the one who reserved it"
        assert self._hash[block] is None, "a block is committed once"
        known = self._by_hash.get(block_hash)
        if known is not None:
            if self._num_users[known] == 0:
                self._num_cached -= 1
            self._num_users[known] += 1
            self.free((block,))
            return known
        self._hash[block] = block_hash
        self._by_hash[block_hash] = block
        if parent is not None:
            self._parent[block] = parent
            self._num_children[parent] += 1
        return block

    def free(self, blocks: Sequence[int]) -> None:
        """Give back blocks. Named ones that nobody else uses stay cached, others become blank."""
        self._tick += 1
        for block in reversed(blocks):
            assert self._num_users[block] > 0, "a block is freed as often as it was reserved"
            self._num_users[block] -= 1
            if self._num_users[block]:
                continue
            if self._hash[block] is None:
                self._blank.append(block)
            else:
                self._num_cached += 1
                self._last_used[block] = self._tick
                self._offer(block)

    def clear(self) -> None:
        """Forget all cached blocks that nobody uses, and their retentions."""
        while self._num_cached:
            self._blank.append(self._evict())

    # --- retention ------------------------------------------------------------------------------

    def retain(self, key: str, tip: int | None, until: float) -> None:
        """Protect a prefix from eviction until then, if there are others to evict.

        Replaces what was retained under ``key``. ``tip`` is the last block of the prefix,
        committed; ``None`` when the prefix has no full block.
        """
        former = self._retentions.drop(key)
        if former is not None:
            self._offer(former)
        if tip is None or until <= self._clock():
            return
        assert self._hash[tip] is not None, "only committed blocks can be retained"
        self._retentions.add(key, tip, until)
        self._offer(tip)

    def release(self, key: str) -> None:
        """Give up a retention. Blocks that only it wanted become the first to be evicted."""
        tip = self._retentions.drop(key)
        if tip is None:
            return
        block, only_child = tip, 0
        while block != _NONE and self._is_unwanted(block, only_child):
            self._last_used[block] = 0
            block, only_child = self._parent[block], 1
        self._offer(tip)

    def expire(self) -> None:
        """Give up the retentions whose time has come. Their blocks keep their place by last use."""
        for tip in self._retentions.drop_expired(self._clock()):
            self._offer(tip)

    def _is_unwanted(self, block: int, num_children: int) -> bool:
        return (
            self._num_users[block] == 0
            and self._num_children[block] == num_children
            and block not in self._retentions
        )

    # --- eviction -------------------------------------------------------------------------------

    def _is_evictable(self, block: int) -> bool:
        return (
            self._num_users[block] == 0
            and self._num_children[block] == 0
            and self._hash[block] is not None
        )

    def _offer(self, block: int) -> None:
        """Put a block up for eviction if it can be; called whenever its place may have changed."""
        if self._is_evictable(block):
            until = self._retentions.until(block)
            heapq.heappush(self._leaves, (until, self._last_used[block], block))
            if len(self._leaves) > 2 * self.num_blocks + 64:
                self._leaves = [entry for entry in set(self._leaves) if self._is_current(entry)]
                heapq.heapify(self._leaves)

    def _is_current(self, entry: tuple[float, int, int]) -> bool:
        until, last_used, block = entry
        return (
            self._is_evictable(block)
            and self._retentions.until(block) == until
            and self._last_used[block] == last_used
        )

    def _take_blank(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            self.expire()
            block = self._evict()
            self.num_evicted += 1
        self._num_users[block] = 1
        return block

    def _evict(self) -> int:
        """Turn the first leaf in line into a blank block, which is the caller's."""
        entry = heapq.heappop(self._leaves)
        while not self._is_current(entry):
            entry = heapq.heappop(self._leaves)
        block = entry[2]
        parent = self._parent[block]
        block_hash = self._hash[block]
        assert block_hash is not None
        self._retentions.move(block, None if parent == _NONE else parent)
        del self._by_hash[block_hash]
        self._hash[block] = None
        self._parent[block] = _NONE
        self._num_cached -= 1
        if parent != _NONE:
            self._num_children[parent] -= 1
            self._offer(parent)
        return block

    # --- invariants -----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert every invariant of the accounting. Walks everything: for tests and idle times."""
        blank = set(self._blank)
        assert len(blank) == len(self._blank), "a block is blank once"
        num_children = [0] * self.num_blocks
        current = {entry for entry in self._leaves if self._is_current(entry)}
        offered = {block for _, _, block in current}
        num_cached = 0
        for block in range(self.num_blocks):
            users, block_hash, parent = (
                self._num_users[block],
                self._hash[block],
                self._parent[block],
            )
            assert users >= 0
            assert (block in blank) == (users == 0 and block_hash is None)
            if block_hash is None:
                assert parent == _NONE
                assert self._num_children[block] == 0, "a parent is evicted after its children"
                assert block not in self._retentions, "only committed blocks are retained"
                continue
            assert self._by_hash[block_hash] == block
            num_cached += users == 0
            if parent != _NONE:
                assert self._hash[parent] is not None, "a parent is named before its children"
                assert self._num_users[parent] >= min(users, 1), "a prefix is held as a whole"
                num_children[parent] += 1
            if self._is_evictable(block):
                assert block in offered, "every evictable block is up for eviction"
        assert num_cached == self._num_cached
        assert num_children == self._num_children
        assert len(self._by_hash) == sum(h is not None for h in self._hash)
        self._retentions.check_integrity()
