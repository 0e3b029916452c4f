"""Named blocks: who uses them, who wants them again, and where they go when they must.

The middle between ``blocks.py``, whose words are those of a turn (reserve, commit, free), and the
books that are kept: names (``tree.py``), wishes (``retentions.py``), ranks (``ranking.py``) and the
host's slots (``host.py``). It does not know which blocks are blank.
"""

from __future__ import annotations

from collections.abc import Callable

from vlm_sessions.engine.eviction import Entry, EvictionPolicy
from vlm_sessions.engine.host import HostBlocks
from vlm_sessions.engine.prices import Prices
from vlm_sessions.engine.ranking import Ranking
from vlm_sessions.engine.retentions import Retentions
from vlm_sessions.engine.tree import PrefixTree


class KeptBlocks:
    """Accounting for the blocks of the device, and behind them those of the host.

    Args:
        block_bytes: the memory of one block.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        num_host_blocks: int,
        block_bytes: int,
        policy: EvictionPolicy,
        prices: Prices,
        clock: Callable[[], float],
    ) -> None:
        total = num_blocks + num_host_blocks
        self.tree = PrefixTree(num_blocks, num_host_blocks)
        self.retentions = Retentions()
        self.host = HostBlocks(num_host_blocks, num_blocks)
        self.num_users = [0] * total
        self.num_cached = 0
        """Named blocks of the device that nobody uses."""
        self._block_size = block_size
        self._block_bytes = block_bytes
        self._policy = policy
        self._prices = prices
        self._clock = clock
        self._last_used = [0.0] * total
        self._order = [0] * total
        self._is_given_up = [False] * total
        self._wanted_below: list[tuple[int, float]] = [(0, 0.0)] * total
        """How many retentions stand at what went to the host from below a block, and until when."""
        self._ranking: Ranking[int] = Ranking()
        """The device's leaves."""
        self._tick = 0

    # --- use ------------------------------------------------------------------------------------

    def use(self, block: int) -> None:
        """Keep a named block where it is; each call wants its ``unuse``."""
        if not self.num_users[block]:
            if not self.host.is_place(block):
                self.num_cached -= 1
            self._ranking_of(block).discard(block)
        self.num_users[block] += 1

    def tick(self) -> None:
        """What is used last from now on counts as used after all that was before."""
        self._tick += 1

    def unuse(self, block: int) -> bool:
        """End one use; ``True``: nobody needs the block, and it has no name either."""
        assert self.num_users[block] > 0, "a block is given back as often as it was taken"
        self.num_users[block] -= 1
        if self.num_users[block]:
            return False
        if block not in self.tree:
            return True
        if not self.host.is_place(block):
            self.num_cached += 1
        self._last_used[block] = self._clock()
        self._order[block] = self._tick
        self._is_given_up[block] = False
        self._wanted_below[block] = 0, 0.0
        if self.is_evictable(block):  # else it is not up for eviction: it was in use
            self._put_up(block)
        return False

    # --- names ----------------------------------------------------------------------------------

    def name(
        self, block: int, parent: int | None, content: bytes, block_hash: bytes | None
    ) -> None:
        """Name a block that is in use, or name it anew for more of what it holds."""
        if block in self.tree:
            self.tree.remove(block)
        self.tree.add(block, parent, content, block_hash)

    def rename(self, block: int, target: int) -> None:
        """Have what a block is named for be at ``target`` from now on, with all who want it."""
        self.tree.move(block, target)
        self.retentions.move(block, target)
        self._last_used[target] = self._last_used[block]
        self._order[target] = self._order[block]
        self._is_given_up[target] = self._is_given_up[block]
        self._wanted_below[target] = self._wanted_below[block]
        self.num_users[target] += self.num_users[block]
        self.num_users[block] = 0
        self.rerank(block)
        self.rerank(target)

    def forget(self, block: int, heir: int | None) -> None:
        """Take the name of a block that nobody uses, and below which there is nothing; retentions
        at it move to ``heir``."""
        assert not self.num_users[block]
        parent = self.tree.parent(block)
        self.tree.remove(block)
        self.retentions.move(block, heir)
        if self.host.is_place(block):
            self.host.blank_now(block)
        else:
            self.num_cached -= 1
            self._ranking.discard(block)
        for other in {parent, heir}:
            if other is not None:
                self.rerank(other)

    def replace(self, place: int, block: int) -> None:
        """Have a block that is in use stand for what is stored at ``place``: it holds the same."""
        if block in self.tree:
            self.tree.remove(block)
        self.rename(place, block)

    def is_superseded(self, block: int) -> bool:
        """Whether a block is a tail that nobody uses, and that adds nothing to another one."""
        return not (
            self.num_users[block] or self.tree.is_full(block) or not self.tree.is_held_twice(block)
        )

    # --- wishes ---------------------------------------------------------------------------------

    def retain(self, key: str, tip: int | None, until: float) -> None:
        """Have the prefix that ends with ``tip`` kept, rather than others, until then."""
        now = self._clock()
        since = self.retentions.since(key)
        if since is not None:
            self._policy.note_wait(now - since)
        former = self.retentions.drop(key)
        if former is not None:
            self.rerank(former)
        if tip is None or until <= now:
            return
        assert tip in self.tree, "only committed blocks can be retained"
        self.retentions.add(key, tip, until, now)
        self.rerank(tip)

    def release(self, key: str) -> None:
        """Give up a retention, and all that only it wanted."""
        tip = self.retentions.drop(key)
        if tip is None:
            return
        for block in self.tree.upwards(tip):
            if (
                self.num_users[block]
                or self.tree.num_children(block) != int(block != tip)
                or block in self.retentions
            ):
                break
            self._is_given_up[block] = True
            self.rerank(block)
        self.rerank(tip)

    def expire(self) -> None:
        """Give up the retentions whose time has come. Their blocks keep their place by last use."""
        for tip in self.retentions.drop_expired(self._clock()):
            self.rerank(tip)

    # --- eviction -------------------------------------------------------------------------------

    def is_evictable(self, block: int) -> bool:
        if self.num_users[block] or block not in self.tree:
            return False
        if self.host.is_place(block):
            return not self.tree.num_children(block)
        return not self.tree.num_children_on_device(block)

    def rerank(self, block: int) -> None:
        """Put a block up for eviction if it can be; called whenever its place may have changed."""
        if self.is_evictable(block):
            self._put_up(block)
        else:
            self._ranking_of(block).discard(block)

    def _put_up(self, block: int) -> None:
        entry = self._entry(block, is_stored=self.host.is_place(block))
        rank = self._policy.rank(entry, self._clock())
        self._ranking_of(block).put(block, rank, self._order[block])

    def _ranking_of(self, block: int) -> Ranking[int]:
        return self.host.ranking if self.host.is_place(block) else self._ranking

    def evict(self, *, may_store: Callable[[int], bool]) -> int:
        """Have the first in line give up its block of the device; returns that.

        Args:
            may_store: whether a block can be copied to the host just now.
        """
        lowest = self._ranking.lowest()
        assert lowest is not None, "what is available can be had"
        block = lowest[1]
        parent = self.tree.parent(block)
        if may_store(block) and self._make_room_for(block):
            self.num_cached -= 1
            if parent is not None:
                self._wanted_below[parent] = max(self._wanted_below[parent], self._wanted(block))
            self.rename(block, self.host.store(block))
            if parent is not None:
                self.rerank(parent)
        else:
            self.forget(block, parent)
        return block

    def clear_stored(self) -> None:
        """Forget all on the host that nobody needs."""
        while self.host.ranking:
            self._forget_lowest_stored()

    def _forget_lowest_stored(self) -> None:
        place = self.host.ranking.pop()
        self.forget(place, self.tree.parent(place))

    def _make_room_for(self, block: int) -> bool:
        """See that the host has a blank slot for a block, if the block is worth one."""
        if not self.host.num_slots:
            return False
        # What is on the host below a block would be out of reach without it.
        is_needed = self.tree.num_children(block) > 0
        entry = self._entry(block, is_stored=True)
        if not is_needed and not self._policy.is_worth_storing(entry, self._copy_seconds):
            return False
        rank = self._policy.rank(entry, self._clock())
        while not self.host.has_blank:
            lowest = self.host.ranking.lowest()
            if lowest is None or (lowest[0] > rank and not is_needed):
                return False
            self._forget_lowest_stored()
            self.host.num_evicted_total += 1
        return True

    def _entry(self, block: int, *, is_stored: bool) -> Entry:
        """A block as a policy sees it, if it is or were kept there."""
        depth = self.tree.depth(block) * self._block_size
        seconds = self._prices.compute(self.tree.num_tokens(block), depth)
        if self.host.num_slots and not is_stored:
            seconds = min(seconds, self._copy_seconds)
        num_retentions, until = self._wanted(block)
        return Entry(
            num_bytes=self._block_bytes,
            restore_seconds=seconds,
            last_used=self._last_used[block],
            num_retentions=num_retentions,
            until=until,
            is_given_up=self._is_given_up[block],
        )

    def _wanted(self, block: int) -> tuple[int, float]:
        """How many retentions want a block, and until when the last of them does."""
        own = self.retentions.count(block), self.retentions.until(block)
        return max(own, self._wanted_below[block])

    @property
    def _copy_seconds(self) -> float:
        return self._prices.copy(self._block_bytes)

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        for block in range(len(self.num_users)):
            ranking = self.host.ranking if self.host.is_place(block) else self._ranking
            assert (block in ranking) == self.is_evictable(block), "what can go is up for eviction"
            if block not in self.tree:
                assert block not in self.retentions, "only committed blocks are retained"
                continue
            parent = self.tree.parent(block)
            if parent is not None:
                assert self.num_users[parent] >= min(self.num_users[block], 1), "held as a whole"
            if not self.tree.is_full(block):
                assert self.num_users[block] <= 1, "a tail is written by one turn"
                twice = self.tree.is_held_twice(block)
                assert self.num_users[block] or not twice, "a tail adds something"
        self.tree.check_integrity()
        self.retentions.check_integrity()
