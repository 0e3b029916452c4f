"""What the step that is being planned copies: parts of blocks, and blocks from the host.

    the host's block  ──restore──▶  a block of the caller's, and named from then on
    a part of any     ──restore_part, copy──▶  the beginning of one

A named block that is on its way can be found, reserved and waited for, but neither read nor
written in this step: the runner may bring it while it computes. So whoever shares it runs from the
next step on, and nobody copies a part of it before.
"""

from __future__ import annotations

from collections.abc import Iterable

from vlm_sessions.engine.blanks import BlankBlocks
from vlm_sessions.engine.kept import KeptBlocks
from vlm_sessions.engine.types import BlockCopy, BlockLoad, BlockStore


class Moves:
    """The moves of one step at a time. Not thread-safe."""

    def __init__(self, kept: KeptBlocks, blank: BlankBlocks, block_size: int) -> None:
        self.num_copied = 0
        """Blocks of which a part was copied for reuse."""
        self._kept = kept
        self._blank = blank
        self._block_size = block_size
        self._written: set[int] = set()
        """Blocks of the device that this step's copies and loads write."""
        self._arriving: set[int] = set()
        """Those of them that are named."""
        self._reading: list[int] = []
        """Blocks of which a part is brought from the host, and which are pinned for that."""

    # --- looking --------------------------------------------------------------------------------

    def closest(self, parent: int | None, content: bytes) -> tuple[int | None, int]:
        """The block that goes on like this for longest, and for how many tokens, if it is there and
        not only on its way."""
        closest = self._kept.tree.closest(parent, content)
        if closest is None or closest[0] in self._arriving:
            return None, 0
        return closest

    def brings_any_of(self, blocks: Iterable[int]) -> bool:
        return not self._arriving.isdisjoint(blocks)

    def may_store(self, block: int) -> bool:
        """Whether a block holds by now what it is named for: stores are made before copies."""
        return block not in self._written

    # --- moving ---------------------------------------------------------------------------------

    def copy(self, source: int, target: int, num_tokens: int) -> BlockCopy:
        """Copy a part of one block of the device to another, which is the caller's."""
        self._written.add(target)
        self.num_copied += 1
        return BlockCopy(source, target, num_tokens)

    def restore(self, block: int, block_hash: bytes) -> int:
        """Bring a full block back to ``block`` of the caller's, who has it pinned; returns the
        block to use from now on: another one, if another turn has brought it back meanwhile."""
        kept = self._kept
        place = self.find(block_hash)
        if not kept.host.is_place(place):
            self._unuse(block)
            return place
        kept.host.load(place, block, self._block_size)
        kept.rename(place, block)
        kept.num_users[block] -= 1  # the caller held the block, and what is in it now
        kept.host.vacate(place)
        self._reading = [block if pinned == place else pinned for pinned in self._reading]
        self._written.add(block)
        self._arriving.add(block)
        return block

    def restore_part(
        self, block: int, parent: int | None, content: bytes
    ) -> tuple[int, BlockCopy | None]:
        """Bring as much as is cached of ``content``, the next after ``parent``, to ``block`` of the
        caller's, but never all of a block; returns how many tokens, and the copy to be made if they
        are on the device."""
        source, num_tokens = self.closest(parent, content)
        # Of a block that another turn has filled meanwhile, the last token is computed again: whose
        # block is full then finds the other one and shares it (``BlockPool.commit``).
        num_tokens = min(num_tokens, self._block_size - 1)
        if source is None or not num_tokens:
            return 0, None
        if not self._kept.host.is_place(source):
            return num_tokens, self.copy(source, block, num_tokens)
        self._written.add(block)
        self._kept.host.load(source, block, num_tokens)
        self._kept.use(source)
        self._reading.append(source)
        return num_tokens, None

    def unpin(self, block_hash: bytes) -> None:
        """Give up a full block that was to be brought back."""
        self._unuse(self.find(block_hash))

    def find(self, block_hash: bytes) -> int:
        """Where a block is that is pinned."""
        block = self._kept.tree.find(block_hash)
        assert block is not None, "what is pinned stays"
        return block

    def take(self) -> tuple[tuple[BlockStore, ...], tuple[BlockLoad, ...]]:
        """What this step copies to the host, and from there."""
        return self._kept.host.take_stores(), self._kept.host.take_loads()

    def settle(self) -> None:
        """The step was carried out: what was to be moved has been."""
        for block in self._reading:
            self._kept.unuse(block)
            if self._kept.is_superseded(block):
                self._kept.forget(block, self._kept.tree.parent(block))
        self._reading.clear()
        self._written.clear()
        self._arriving.clear()
        self._kept.host.settle()

    def _unuse(self, block: int) -> None:
        if self._kept.unuse(block):
            self._blank.add(block)

    def check_integrity(self) -> None:
        """Assert that nothing is on its way: for between two steps."""
        assert not self._reading
        assert not self._arriving
