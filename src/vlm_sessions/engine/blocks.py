"""The KV block pool's accounting: which block holds what, who uses it, which one goes next.

It knows block numbers and contents; neither the memory behind them nor the turns that use them.

Named blocks form a tree (``tree.py``): a block's parent holds the tokens before its own. Only
leaves are ever evicted, so that a prefix loses its tail before its head and no cached block is out
of reach. A block is always in exactly one of three states:

    blank ──try_reserve──▶ in use ──commit──▶ in use, named ──free──▶ cached
      ▲                      │ free                   ▲                 │  │
      └──────────────────────┘                        └──try_reserve────┘  │
      ▲                                                                    │
      └─────────────────────────── evicted by try_reserve ─────────────────┘

A full block is shared by all who need it and never written again. A *tail*, named when its writer
stops before it is full, has at most one user: who finds it unused, and needs all that it holds,
goes on in it. Whoever needs only a part of a block, or a tail that is being written, gets a copy
of that part. The first tokens of a named block are the same for ever, so it may be copied at any
time. What a sibling holds as well is held once: a tail that is only the beginning of a sibling
becomes blank.

What is taken first: blank blocks; then cached leaves that no retention protects, least recently
used first; then retained ones, the earliest expiry first. A retention (``retentions.py``) stands at
the last block of its prefix only, which protects all blocks before it, since those are no leaves;
when that block is evicted all the same, the retention moves to its parent.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.retentions import Retentions
from vlm_sessions.engine.tree import PrefixTree
from vlm_sessions.engine.types import BlockCopy


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix as it was found."""

    num_tokens: int = 0
    full: tuple[int, ...] = ()
    """Blocks that are needed as they are."""
    partial: int | None = None
    """The block below them of which the first ``num_partial`` tokens are needed too."""
    num_partial: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks that now belong to the caller, each to be given back by ``free``."""

    blocks: tuple[int, ...]
    """The full ones of the match come first, never to be written; the others are the caller's."""
    copy: BlockCopy | None = None
    """To be done before anything else is written, in the order of the reservations."""


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
        self.num_copied = 0
        """Blocks of which a part was copied for reuse."""
        self._clock = clock
        self._num_users = [0] * num_blocks
        self._last_used = [0] * num_blocks
        self._tree = PrefixTree(num_blocks)
        self._retentions = Retentions()
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
            for block in self._tree.upwards(tip):
                if block in seen:
                    break
                seen.add(block)
        return sum(1 for block in seen if self._num_users[block] == 0)

    def num_users(self, block: int) -> int:
        return self._num_users[block]

    # --- reuse, reserve, commit, free -----------------------------------------------------------

    def match(self, chain: TokenChain, num_tokens: int) -> Match:
        """The longest cached prefix of the first ``num_tokens`` tokens. Changes nothing."""
        full: list[int] = []
        for block_hash in chain.hashes[: num_tokens // self.block_size]:
            block = self._tree.find(block_hash)
            if block is None:
                break
            full.append(block)
        rest = chain.content(len(full), num_tokens)
        closest = self._tree.closest(full[-1] if full else None, rest)
        if closest is None:
            return Match(len(full) * self.block_size, tuple(full))
        partial, num_partial = closest
        return Match(len(full) * self.block_size + num_partial, tuple(full), partial, num_partial)

    def try_reserve(self, match: Match, num_blocks: int) -> Reservation | None:
        """Take what ``match`` found just now, and blocks to go on in: ``num_blocks`` in all.

        Returns ``None``, and changes nothing, when there are not enough blocks. Evicts cached
        blocks when there are no blank ones left, but none that the reservation shares or goes on
        in. One that it copies may go: the copy is made first.
        """
        tail = self._free_tail(match)
        found = match.full if tail is None else (*match.full, tail)
        num_idle = sum(1 for block in found if self._num_users[block] == 0)
        num_fresh = num_blocks - len(found)
        if self.num_available - num_idle < num_fresh:
            return None
        for block in found:
            self._num_users[block] += 1
        self._num_cached -= num_idle
        fresh = tuple(self._take_blank() for _ in range(num_fresh))
        copy = None
        if match.partial is not None and tail is None:
            copy = BlockCopy(match.partial, fresh[0], match.num_partial)
            self.num_copied += 1
        return Reservation(found + fresh, copy)

    def commit(
        self, block: int, parent: int | None, content: bytes, block_hash: bytes | None
    ) -> int:
        """Name a block of the caller's for what is computed in it; returns the block to use from
        now on.

        When another block holds as much already, the caller's becomes blank and the caller shares
        the other one.

        Args:
            parent: the block before it, full and committed, held by the caller; ``None`` for the
                first of a prefix.
            block_hash: of a full block; ``None`` for one that is not, which the caller must not
                write any more: it will be given back next.
        """
        assert self._num_users[block] == 1, "a block is committed by the one who reserved it"
        assert not self._tree.is_full(block), "a full block is committed once"
        holder = self._tree.holder(parent, content, besides=block)
        if holder is not None:
            if self._num_users[holder] == 0:
                self._num_cached -= 1
            self._num_users[holder] += 1
            self._num_users[block] -= 1
            self._forget(block, holder)
            return holder
        if block in self._tree:
            self._tree.remove(block)
        self._tree.add(block, parent, content, block_hash)
        shortened = self._tree.shortened(block)
        if shortened is not None and self._num_users[shortened] == 0:
            self._num_cached -= 1
            self._forget(shortened, block)
        return block

    def free(self, blocks: Sequence[int]) -> None:
        """Give back blocks. Named ones that nobody else uses stay cached, others become blank."""
        self._tick += 1
        for block in reversed(blocks):
            assert self._num_users[block] > 0, "a block is freed as often as it was reserved"
            self._num_users[block] -= 1
            if self._num_users[block]:
                continue
            if block not in self._tree:
                self._blank.append(block)
            else:
                self._num_cached += 1
                self._last_used[block] = self._tick
                self._offer(block)

    def clear(self) -> None:
        """Forget all cached blocks that nobody uses, and their retentions."""
        while self._num_cached:
            self._evict()

    # --- retention ------------------------------------------------------------------------------

    def retain(self, key: str, tip: int | None, until: float) -> None:
        """Protect a prefix from eviction until then, if there are others to evict.

        Replaces what was retained under ``key``. ``tip`` is the last block of the prefix,
        committed; ``None`` when nothing of it is computed.
        """
        former = self._retentions.drop(key)
        if former is not None:
            self._offer(former)
        if tip is None or until <= self._clock():
            return
        assert tip in self._tree, "only committed blocks can be retained"
        self._retentions.add(key, tip, until)
        self._offer(tip)

    def release(self, key: str) -> None:
        """Give up a retention. Blocks that only it wanted become the first to be evicted."""
        tip = self._retentions.drop(key)
        if tip is None:
            return
        for block in self._tree.upwards(tip):
            if not self._is_unwanted(block, num_children=int(block != tip)):
                break
            self._last_used[block] = 0
        self._offer(tip)

    def expire(self) -> None:
        """Give up the retentions whose time has come. Their blocks keep their place by last use."""
        for tip in self._retentions.drop_expired(self._clock()):
            self._offer(tip)

    def _is_unwanted(self, block: int, *, num_children: int) -> bool:
        return (
            self._num_users[block] == 0
            and self._tree.num_children(block) == num_children
            and block not in self._retentions
        )

    # --- eviction -------------------------------------------------------------------------------

    def _is_evictable(self, block: int) -> bool:
        return (
            self._num_users[block] == 0
            and block in self._tree
            and self._tree.num_children(block) == 0
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
        if not self._blank:
            self.expire()
            self._evict()
            self.num_evicted += 1
        block = self._blank.pop()
        self._num_users[block] = 1
        return block

    def _evict(self) -> None:
        """Turn the first leaf in line into a blank block."""
        entry = heapq.heappop(self._leaves)
        while not self._is_current(entry):
            entry = heapq.heappop(self._leaves)
        block = entry[2]
        parent = self._tree.parent(block)
        self._num_cached -= 1
        self._forget(block, parent)
        if parent is not None:
            self._offer(parent)

    def _forget(self, block: int, heir: int | None) -> None:
        """Make a block that nobody uses blank; retentions at it move to ``heir``."""
        assert self._num_users[block] == 0
        if block in self._tree:
            self._tree.remove(block)
            self._retentions.move(block, heir)
        self._blank.append(block)

    def _free_tail(self, match: Match) -> int | None:
        """The tail that was found, if all of it is needed and nobody uses it."""
        block = match.partial
        if (
            block is None
            or self._num_users[block]
            or self._tree.is_full(block)
            or self._tree.num_tokens(block) > match.num_partial
        ):
            return None
        return block

    # --- invariants -----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert every invariant of the accounting. Walks everything: for tests and idle times."""
        blank = set(self._blank)
        assert len(blank) == len(self._blank), "a block is blank once"
        offered = {block for _, _, block in filter(self._is_current, self._leaves)}
        num_cached = 0
        for block, users in enumerate(self._num_users):
            assert users >= 0
            assert (block in blank) == (users == 0 and block not in self._tree)
            if block not in self._tree:
                assert block not in self._retentions, "only committed blocks are retained"
                continue
            num_cached += users == 0
            parent = self._tree.parent(block)
            if parent is not None:
                assert self._num_users[parent] >= min(users, 1), "a prefix is held as a whole"
            if self._is_evictable(block):
                assert block in offered, "every evictable block is up for eviction"
            if not self._tree.is_full(block):
                assert users <= 1, "a tail is written by one turn"
                assert users or not self._tree.is_held_twice(block), "a tail adds something"
        assert num_cached == self._num_cached
        self._tree.check_integrity()
        self._retentions.check_integrity()
