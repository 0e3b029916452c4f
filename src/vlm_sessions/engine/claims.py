"""Which turn is about to compute which blocks, and who waits for them instead of doing so too.

When fifty sessions open one image at the same moment, the first claims the blocks of its prefix;
the others find them claimed, and wait until they can share them.

A younger turn waits for an older one only, and only for blocks that the older one can compute as
soon as anybody could: not when the older one waits for an image that comes after them. So nobody
waits in a circle, nor for a reason that is not its own. When the older turn goes, whoever waited
for it looks around anew: the oldest of them then claims what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from vlm_sessions.engine.sequence import Sequence

MIN_BLOCKS = 2
"""For fewer blocks waiting is not worth it: a step takes the better part of what they cost."""


class Claims:
    """Claims on full blocks, by their hash. Not thread-safe."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._owners: dict[bytes, Sequence] = {}
        """hash -> the turn that is to compute the block"""
        self._waiting: dict[bytes, list[Sequence]] = {}
        """hash -> the turns that wait until it is computed; never empty"""

    def wait_or_claim(self, sequence: Sequence, num_cached: int) -> bool:
        """Let a turn, of which ``num_cached`` tokens are cached, wait for what another is about to
        compute; else claim what it lacks itself. Whether it waits."""
        first = num_cached // self._block_size
        hashes = sequence.chain.hashes
        last = self._last_shared(sequence, first)
        if last - first + 1 >= MIN_BLOCKS:
            sequence.waits_for = hashes[last]
            self._waiting.setdefault(hashes[last], []).append(sequence)
            return True
        for block_hash in hashes[first:]:
            if self._owners.setdefault(block_hash, sequence) is sequence:
                sequence.claims.add(block_hash)
        return False

    def settle(self, block_hash: bytes) -> list[Sequence]:
        """A block was computed; returns the turns that waited for it."""
        owner = self._owners.pop(block_hash, None)
        if owner is not None:
            owner.claims.remove(block_hash)
        return self._wake((block_hash,))

    def forget(self, sequence: Sequence) -> list[Sequence]:
        """A turn computes nothing for now, and waits no longer; returns those who waited for it."""
        if sequence.waits_for is not None:
            waiting = self._waiting[sequence.waits_for]
            waiting.remove(sequence)
            if not waiting:
                del self._waiting[sequence.waits_for]
            sequence.waits_for = None
        claims, sequence.claims = sequence.claims, set()
        for block_hash in claims:
            del self._owners[block_hash]
        return self._wake(claims)

    def _last_shared(self, sequence: Sequence, first: int) -> int:
        """Index of the last block from ``first`` on that one older turn is about to compute, and
        can; ``first - 1``: there is none."""
        hashes = sequence.chain.hashes[: sequence.num_reusable // self._block_size]
        if first >= len(hashes):
            return first - 1
        owner = self._owners.get(hashes[first])
        if owner is None or owner.order >= sequence.order:
            return first - 1
        last = first
        while last + 1 < len(hashes) and self._owners.get(hashes[last + 1]) is owner:
            last += 1
        stands_at = owner.parked_at()
        if stands_at is not None and stands_at >= (last + 1) * self._block_size:
            return first - 1
        return last

    def _wake(self, hashes: Iterable[bytes]) -> list[Sequence]:
        woken = [each for block_hash in hashes for each in self._waiting.pop(block_hash, ())]
        for sequence in woken:
            sequence.waits_for = None
        return woken

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that these turns, all there are, claim and wait for what is written here."""
        claims: dict[bytes, Sequence] = {}
        for sequence in sequences:
            claims |= dict.fromkeys(sequence.claims, sequence)
            if sequence.waits_for is not None:
                assert sequence in self._waiting[sequence.waits_for]
                assert self._owners[sequence.waits_for].order < sequence.order
        assert claims == self._owners
        assert all(self._waiting.values())
