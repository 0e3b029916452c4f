"""The host's KV blocks: which of them are blank, which may go, and which are spoken for.

They hold what the device had no more room for. A stored block is found in the same tree as those on
the device (``tree.py``), under the number of its slot counted on from the device's last block: its
*place*. It knows places; the names, users and retentions of what is stored are for ``blocks.py``.

What it is asked for leaves with the next plan as ``BlockStore`` and ``BlockLoad``. A slot that this
plan's loads read from is not stored to until the plan was carried out: stores come first.
"""

from __future__ import annotations

from vlm_sessions.engine.ranking import Ranking
from vlm_sessions.engine.types import BlockLoad, BlockStore


class HostBlocks:
    """Accounting for ``num_slots`` blocks on the host. Not thread-safe.

    Args:
        first: the place of slot 0: the number of blocks on the device.
    """

    def __init__(self, num_slots: int, first: int) -> None:
        self.num_slots = num_slots
        self.ranking: Ranking[int] = Ranking()
        """Stored blocks that nobody needs and below which nothing is stored, by place."""
        self.num_stored_total = 0
        self.num_loaded_total = 0
        self.num_evicted_total = 0
        self._first = first
        self._blank = list(range(first + num_slots - 1, first - 1, -1))
        self._vacated: list[int] = []
        """Places whose slots this plan's loads read, and which are blank from then on."""
        self._stores: dict[int, BlockStore] = {}
        """slot -> what this plan copies there"""
        self._loads: list[BlockLoad] = []

    @property
    def num_stored(self) -> int:
        return self.num_slots - len(self._blank) - len(self._vacated)

    @property
    def has_blank(self) -> bool:
        return bool(self._blank)

    def is_place(self, block: int) -> bool:
        """Whether this is a place on the host, not a block of the device."""
        return block >= self._first

    def store(self, block: int) -> int:
        """Have a block of the device copied to a blank slot; returns its place."""
        place = self._blank.pop()
        slot = place - self._first
        self._stores[slot] = BlockStore(block, slot)
        self.num_stored_total += 1
        return place

    def load(self, place: int, block: int, num_tokens: int) -> None:
        """Have the first tokens of a stored block copied to a block of the device."""
        self._loads.append(BlockLoad(place - self._first, block, num_tokens))
        self.num_loaded_total += 1

    def vacate(self, place: int) -> None:
        """What was stored there has a name no more, but may be read by this plan's loads."""
        self.ranking.discard(place)
        self._vacated.append(place)

    def take_stores(self) -> tuple[BlockStore, ...]:
        stores, self._stores = tuple(self._stores.values()), {}
        return stores

    def take_loads(self) -> tuple[BlockLoad, ...]:
        loads, self._loads = tuple(self._loads), []
        return loads

    def settle(self) -> None:
        """The plan was carried out."""
        self._blank += self._vacated
        self._vacated = []

    def blank_now(self, place: int) -> None:
        """What was stored there goes, and this plan may store something else in its stead."""
        self.ranking.discard(place)
        self._stores.pop(place - self._first, None)
        self._blank.append(place)

    def blank_places(self) -> set[int]:
        """All that hold nothing that has a name."""
        places = {*self._blank, *self._vacated}
        assert len(places) == len(self._blank) + len(self._vacated), "a slot is blank once"
        return places
