"""Which block holds what: a tree of named blocks, each below the one with the tokens before it.

    (root) ─┬─ full ── full ─┬─ full ── tail
            │                ├─ tail          a tail is partly filled, and always a leaf
            └─ full ── tail  └─ tail

A full block is found by its chained hash. What goes on below it is found by comparing contents
(``content.py``), full blocks' and tails' alike: children are kept sorted, so that the one with the
longest beginning in common is a neighbour of the place where what is looked for would stand.

A named block is on the device or on the host, and its name moves with it. All of a prefix that is
on the device comes before all of it that is on the host. Blocks are numbered through: those of the
device first, those of the host behind them.

It knows block numbers and contents; not who uses a block, nor for how long it is kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from vlm_sessions.engine.content import count_common, count_tokens


class PrefixTree:
    """Named blocks by what they hold. ``None`` as a parent is the root.

    Args:
        num_blocks: on the device.
        num_stored: on the host.
    """

    def __init__(self, num_blocks: int, num_stored: int = 0) -> None:
        total = num_blocks + num_stored
        self._num_blocks = num_blocks
        self._content: list[bytes | None] = [None] * total
        self._hash: list[bytes | None] = [None] * total
        self._parent: list[int | None] = [None] * total
        self._depth = [0] * total
        self._num_near = [0] * total
        """Children that are on the device."""
        self._children: dict[int | None, list[tuple[bytes, int]]] = {}
        """parent -> (content, block) of its children, sorted; never empty"""
        self._by_hash: dict[bytes, int] = {}

    # --- one block ------------------------------------------------------------------------------

    def __contains__(self, block: int) -> bool:
        """Whether a block is named."""
        return self._content[block] is not None

    def is_full(self, block: int) -> bool:
        """Whether a block is named, and not a tail."""
        return self._hash[block] is not None

    def parent(self, block: int) -> int | None:
        return self._parent[block]

    def depth(self, block: int) -> int:
        """How many blocks of its prefix come before a named one."""
        return self._depth[block]

    def num_children(self, block: int) -> int:
        return len(self._children.get(block, ()))

    def num_children_on_device(self, block: int) -> int:
        return self._num_near[block]

    def num_tokens(self, block: int) -> int:
        """How many tokens a named block is named for; there may be more in it by now."""
        content = self._content[block]
        assert content is not None
        return count_tokens(content)

    def upwards(self, block: int) -> Iterator[int]:
        """The block and those before it, to the first."""
        above: int | None = block
        while above is not None:
            yield above
            above = self._parent[above]

    # --- finding --------------------------------------------------------------------------------

    def find(self, block_hash: bytes) -> int | None:
        """The full block of this name."""
        return self._by_hash.get(block_hash)

    def closest(self, parent: int | None, content: bytes) -> tuple[int, int] | None:
        """The child that has the longest beginning in common with ``content``, and how many tokens
        that is; ``None``: not one."""
        siblings = self._children.get(parent, ())
        at = bisect_left(siblings, (content,))
        best: tuple[int, int] | None = None
        for held, block in siblings[max(0, at - 1) : at + 1]:
            num_common = count_common(held, content)
            if num_common > (0 if best is None else best[1]):
                best = block, num_common
        return best

    def holder(self, parent: int | None, content: bytes, *, besides: int) -> int | None:
        """A child other than ``besides`` that holds all of ``content``, and perhaps more."""
        siblings = self._children.get(parent, ())
        at = bisect_left(siblings, (content,))
        for held, block in siblings[at : at + 2]:
            if block != besides and held.startswith(content):
                return block
        return None

    def shortened(self, block: int) -> int | None:
        """The sibling before a block, if all that it holds is the beginning of the block's."""
        content = self._content[block]
        assert content is not None
        siblings = self._children[self._parent[block]]
        at = bisect_left(siblings, (content, block))
        if at and content.startswith(siblings[at - 1][0]):
            return siblings[at - 1][1]
        return None

    def is_held_twice(self, block: int) -> bool:
        """Whether a sibling holds all that a named block is named for."""
        content = self._content[block]
        assert content is not None
        return self.holder(self._parent[block], content, besides=block) is not None

    # --- changing -------------------------------------------------------------------------------

    def add(self, block: int, parent: int | None, content: bytes, block_hash: bytes | None) -> None:
        """Name a block that has no name; ``block_hash`` is ``None`` for a tail."""
        assert self._content[block] is None, "a block has one name"
        assert content, "a block is named for what it holds"
        assert parent is None or self.is_full(parent), "nothing stands below a tail"
        self._content[block] = content
        self._hash[block] = block_hash
        self._parent[block] = parent
        self._depth[block] = 0 if parent is None else self._depth[parent] + 1
        self._join(parent, content, block)
        if block_hash is not None:
            self._by_hash[block_hash] = block

    def remove(self, block: int) -> None:
        """Take a leaf's name."""
        content, block_hash, parent = self._content[block], self._hash[block], self._parent[block]
        assert content is not None
        assert block not in self._children, "a parent goes after its children"
        self._leave(parent, content, block)
        if block_hash is not None:
            del self._by_hash[block_hash]
        self._content[block] = self._hash[block] = self._parent[block] = None

    def move(self, block: int, target: int) -> None:
        """Give a block's name and its place among the others to ``target``, which has no name."""
        content, block_hash, parent = self._content[block], self._hash[block], self._parent[block]
        assert content is not None
        assert self._content[target] is None, "a block has one name"
        self._leave(parent, content, block)
        self._join(parent, content, target)
        self._content[target], self._hash[target] = content, block_hash
        self._parent[target], self._depth[target] = parent, self._depth[block]
        self._content[block] = self._hash[block] = self._parent[block] = None
        if block_hash is not None:
            self._by_hash[block_hash] = target
        children = self._children.pop(block, None)
        if children is not None:
            self._children[target] = children
            for _, child in children:
                self._parent[child] = target
        self._num_near[target], self._num_near[block] = self._num_near[block], 0

    def _join(self, parent: int | None, content: bytes, block: int) -> None:
        insort(self._children.setdefault(parent, []), (content, block))
        if parent is not None and block < self._num_blocks:
            self._num_near[parent] += 1

    def _leave(self, parent: int | None, content: bytes, block: int) -> None:
        siblings = self._children[parent]
        del siblings[bisect_left(siblings, (content, block))]
        if not siblings:
            del self._children[parent]
        if parent is not None and block < self._num_blocks:
            self._num_near[parent] -= 1

    def check_integrity(self) -> None:
        """Assert the tree's invariants."""
        for parent, siblings in self._children.items():
            assert siblings
            assert siblings == sorted(siblings)
            assert parent is None or self.is_full(parent), "nothing stands below a tail"
            near = [block for _, block in siblings if block < self._num_blocks]
            if parent is not None:
                assert self._num_near[parent] == len(near)
                assert parent < self._num_blocks or not near, "the host's part comes last"
            for content, block in siblings:
                assert self._parent[block] == parent
                assert self._content[block] == content
                assert self._depth[block] == (0 if parent is None else self._depth[parent] + 1)
        num_named = sum(content is not None for content in self._content)
        assert num_named == sum(map(len, self._children.values()))
        hashes = {h: block for block, h in enumerate(self._hash) if h is not None}
        assert hashes == self._by_hash, "a name belongs to one block"
