"""The KV block pool's accounting: which block holds what, who uses it, which one goes next.

It knows block numbers and contents; neither the memory behind them nor the turns that use them.

Named blocks form a tree (``tree.py``): a block's parent holds the tokens before its own. Only
leaves are ever evicted, so that a prefix loses its tail before its head and no cached block is out
of reach. A block of the device is always in exactly one of three states:

    blank ──try_reserve──▶ in use ──commit──▶ in use, named ──free──▶ cached
      ▲                      │ free                   ▲                 │  │
      └──────────────────────┘                        └──try_reserve────┘  │
      ▲                                                                    │
      └────────────── evicted by try_reserve, to the host or to nowhere ───┘

A full block is shared by all who need it and never written again. A *tail*, named when its writer
stops before it is full, has at most one user: who finds it unused, and needs all that it holds,
goes on in it. Whoever needs only a part of a block, or a tail that is being written, gets a copy
of that part. The first tokens of a named block are the same for ever, so it may be copied at any
time. What a sibling holds as well is held once: a tail that is only the beginning of a sibling
becomes blank.

Blank blocks are taken first, then what the policy (``eviction.py``) ranks lowest among the leaves.
A retention (``retentions.py``) stands at the last block of its prefix only, which protects all
blocks before it, since those are no leaves; when that block is evicted all the same, the retention
moves to its parent.

What is evicted goes to the host (``host.py``) if that has room for it, or something there that is
worth less. A block there keeps its name, its retentions and its place in the tree. A prompt that
finds it reserves a block of the device for it, pins it, and has it brought back (``moves.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vlm_sessions.engine.blanks import BlankBlocks
from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.eviction import CostAware, EvictionPolicy
from vlm_sessions.engine.host import HostBlocks
from vlm_sessions.engine.kept import KeptBlocks
from vlm_sessions.engine.matches import Match, Reservation
from vlm_sessions.engine.moves import Moves
from vlm_sessions.engine.prices import Prices


class BlockPool:
    """Accounting for ``num_blocks`` blocks of ``block_size`` tokens. Not thread-safe.

    Args:
        clock: seconds since the epoch, against which retentions expire.
        num_host_blocks: blocks that the host has room for.
        block_bytes: the memory of one block.
        policy: chooses what is evicted.
        prices: what it would cost to get it back.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        clock: Callable[[], float] = time.time,
        *,
        num_host_blocks: int = 0,
        block_bytes: int = 1,
        policy: EvictionPolicy | None = None,
        prices: Prices | None = None,
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("a pool needs at least one block of at least one token")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.block_bytes = block_bytes
        self.num_evicted = 0
        """Cached blocks that left the device to make room, since the pool was made."""
        self._kept = KeptBlocks(
            num_blocks,
            block_size,
            num_host_blocks=num_host_blocks,
            block_bytes=block_bytes,
            policy=CostAware() if policy is None else policy,
            prices=Prices() if prices is None else prices,
            clock=clock,
        )
        self._blank = BlankBlocks(num_blocks)
        self.moves = Moves(self._kept, self._blank, block_size)

    # --- counts ---------------------------------------------------------------------------------

    @property
    def host(self) -> HostBlocks:
        return self._kept.host

    @property
    def num_available(self) -> int:
        """Blocks that a reservation could get: blank and cached ones."""
        return len(self._blank) + self._kept.num_cached

    @property
    def num_blank(self) -> int:
        return len(self._blank)

    @property
    def num_in_use(self) -> int:
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        """Blocks that hold a reusable prefix and are used by nobody."""
        return self._kept.num_cached

    def count_retained(self) -> int:
        """Cached blocks of the device that a retention protects. Walks them all: for figures, not
        for steps."""
        self.expire()
        seen: set[int] = set()
        for tip in self._kept.retentions.tips():
            for block in self._kept.tree.upwards(tip):
                if block in seen:
                    break
                seen.add(block)
        return sum(1 for b in seen if not self.host.is_place(b) and not self.num_users(b))

    def num_users(self, block: int) -> int:
        return self._kept.num_users[block]

    # --- reuse, reserve, commit, free -----------------------------------------------------------

    def match(self, chain: TokenChain, num_tokens: int) -> Match:
        """The longest cached prefix of the first ``num_tokens`` tokens. Changes nothing."""
        found: list[int] = []
        for block_hash in chain.hashes[: num_tokens // self.block_size]:
            block = self._kept.tree.find(block_hash)
            if block is None:
                break
            found.append(block)
        num_near = sum(block < self.num_blocks for block in found)
        full, stored = tuple(found[:num_near]), tuple(found[num_near:])
        partial, num_partial = self.moves.closest(
            found[-1] if found else None, chain.content(len(found), num_tokens)
        )
        num_found = len(found) * self.block_size + num_partial
        return Match(num_found, full, stored, partial, num_partial)

    def count_on_device(self, match: Match) -> int:
        """Tokens of a match that need not be brought from the host."""
        num_tokens = len(match.full) * self.block_size
        if match.partial is not None and not self.host.is_place(match.partial):
            num_tokens += match.num_partial
        return num_tokens

    def try_reserve(
        self, match: Match, num_blocks: int, *, after: int | None = None
    ) -> Reservation | None:
        """Take what ``match`` found just now, and blocks to go on in: ``num_blocks`` in all.

        Returns ``None``, and changes nothing, when there are not enough blocks. Evicts cached
        blocks when there are no blank ones left, but none that the reservation shares, goes on in
        or is to bring back. One that it copies may go: the copy is made first.

        Args:
            after: the block that the first new one should follow, when the match names none.
        """
        kept = self._kept
        tail = self._free_tail(match)
        found = match.full if tail is None else (*match.full, tail)
        num_idle = sum(1 for block in found if not kept.num_users[block])
        num_fresh = num_blocks - len(found)
        if self.num_available - num_idle < num_fresh:
            return None
        for block in (*found, *match.stored):
            kept.use(block)
        fresh = self._take(num_fresh, after=found[-1] if found else after)
        copy = None
        partial = match.partial
        if partial is not None and tail is None and not self.host.is_place(partial):
            copy = self.moves.copy(partial, fresh[0], match.num_partial)
        return Reservation(
            (*found, *fresh),
            self.count_on_device(match),
            num_stored=len(match.stored),
            copy=copy,
            is_arriving=self.moves.brings_any_of(found),
        )

    def commit(
        self, block: int, parent: int | None, content: bytes, block_hash: bytes | None
    ) -> int:
        """Name a block of the caller's for what is computed in it; returns the block to use from
        now on.

        When another block holds as much already, the caller's becomes blank and the caller shares
        the other one; should that be on the host, a full block takes its place.

        Args:
            parent: the block before it, full and committed, held by the caller; ``None`` for the
                first of a prefix.
            block_hash: of a full block; ``None`` for one that is not, which the caller must not
                write any more: it will be given back next.
        """
        kept = self._kept
        assert kept.num_users[block] == 1, "a block is committed by the one who reserved it"
        assert not kept.tree.is_full(block), "a full block is committed once"
        holder = kept.tree.holder(parent, content, besides=block)
        if holder is None:
            kept.name(block, parent, content, block_hash)
        elif self.host.is_place(holder) and block_hash is not None:
            kept.replace(holder, block)
            self.host.vacate(holder)
        else:
            kept.use(holder)
            if not kept.unuse(block):
                kept.forget(block, holder)
            self._blank.add(block)
            return holder
        shortened = kept.tree.shortened(block)
        if shortened is not None and not kept.num_users[shortened]:
            self._forget(shortened, block)
        return block

    def free(self, blocks: Sequence[int]) -> None:
        """Give back blocks. Named ones that nobody else uses stay cached, others become blank."""
        self._kept.tick()
        for block in reversed(blocks):
            if self._kept.unuse(block):
                self._blank.add(block)

    def clear(self) -> None:
        """Forget all cached blocks that nobody uses, and their retentions."""
        self._kept.clear_stored()
        while self._kept.num_cached:
            self._blank.add(self._kept.evict(may_store=lambda _: False))

    # --- retention ------------------------------------------------------------------------------

    def retain(self, key: str, tip: int | None, until: float) -> None:
        """Protect a prefix from eviction until then, as far as the policy goes by that.

        Replaces what was retained under ``key``. ``tip`` is the last block of the prefix,
        committed; ``None`` when nothing of it is computed.
        """
        self._kept.retain(key, tip, until)

    def release(self, key: str) -> None:
        """Give up a retention. Blocks that only it wanted become the first to be evicted."""
        self._kept.release(key)

    def expire(self) -> None:
        """Give up the retentions whose time has come."""
        self._kept.expire()

    # --- within ---------------------------------------------------------------------------------

    def _take(self, count: int, *, after: int | None) -> tuple[int, ...]:
        """Blank blocks for the caller, evicting as many as that takes."""
        if count > len(self._blank):
            self.expire()
        while count > len(self._blank):
            self._blank.add(self._kept.evict(may_store=self.moves.may_store))
            self.num_evicted += 1
        blocks = self._blank.take(count, after=after)
        for block in blocks:
            self._kept.num_users[block] = 1
        return tuple(blocks)

    def _forget(self, block: int, heir: int | None) -> None:
        self._kept.forget(block, heir)
        if not self.host.is_place(block):
            self._blank.add(block)

    def _free_tail(self, match: Match) -> int | None:
        """The tail that was found, if all of it is needed and nobody uses it."""
        block, kept = match.partial, self._kept
        if (
            block is None
            or self.host.is_place(block)
            or kept.num_users[block]
            or kept.tree.is_full(block)
            or kept.tree.num_tokens(block) > match.num_partial
        ):
            return None
        return block

    def check_integrity(self) -> None:
        """Assert every invariant of the accounting. Walks everything: for tests and idle times."""
        self._blank.check_integrity()
        self.moves.check_integrity()
        kept = self._kept
        kept.check_integrity()
        blank, num_cached = set(self._blank), 0
        for block in range(self.num_blocks):
            is_unused = not kept.num_users[block]
            assert (block in blank) == (is_unused and block not in kept.tree)
            num_cached += is_unused and block in kept.tree
        assert num_cached == kept.num_cached
        places = range(self.num_blocks, self.num_blocks + self.host.num_slots)
        assert self.host.blank_places() == {place for place in places if place not in kept.tree}
