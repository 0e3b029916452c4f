"""Every turn that is not over: in which line it stands, and what it holds there.

    added ─▶ WAITING ──blocks──▶ RUNNING ─▶ removed
               │     ▲              │
       pixels, │     │ they         │ preempted: its blocks go to an older turn,
   features or ▼     │ are there    │ its tokens stay and are computed again
  prefix awaited  PARKED            ▼
                                 WAITING       … and removed from anywhere

All transitions are made here. When one is due is for ``planner.py`` and ``reports.py`` to say.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Container, Iterable
from collections.abc import Sequence as SequenceOf
from operator import attrgetter

from vlm_sessions.engine.caches import Caches
from vlm_sessions.engine.claims import Claims
from vlm_sessions.engine.matches import Match, Reservation
from vlm_sessions.engine.rounds import Place, Rounds
from vlm_sessions.engine.sequence import Sequence, SequenceState
from vlm_sessions.engine.types import BlockCopy, PixelImage, PixelsNeeded

_by_order = attrgetter("order")


class Turns:
    """The turns of one engine. Not thread-safe.

    Args:
        num_slots: turns that may have left the line at the same time.
    """

    def __init__(self, caches: Caches, num_slots: int) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        """Both by place, see ``rounds.py``."""
        self._by_id: dict[str, Sequence] = {}
        """turn_id -> every turn that is not over"""
        self._caches = caches
        self._num_slots = num_slots
        self._claims = Claims(caches.pool.block_size)
        self._rounds = Rounds()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> Container[str]:
        return self._by_id.keys()

    @property
    def num_parked(self) -> int:
        return len(self._by_id) - len(self.waiting) - len(self.running)

    @property
    def has_free_slot(self) -> bool:
        """Whether one more turn may leave the line. Parked ones count too: each has pixels kept
        for it, and all that wait in line would fill the host's memory with theirs."""
        return len(self.running) + self.num_parked < self._num_slots

    @property
    def has_prompts(self) -> bool:
        """Whether there is anything to compute but the next token of each."""
        return bool(self.waiting) or not all(sequence.is_decoding for sequence in self.running)

    def get(self, turn_id: str) -> Sequence | None:
        return self._by_id.get(turn_id)

    def match(self, sequence: Sequence) -> Match:
        """What of a waiting turn is cached just now."""
        return self._caches.pool.match(sequence.chain, sequence.num_reusable)

    # --- in line --------------------------------------------------------------------------------

    def enter(self, client: str) -> Place:
        """The place of a new turn of a client, to be given to ``add`` with it."""
        return self._rounds.enter(client)

    def add(self, sequence: Sequence) -> list[PixelsNeeded]:
        """Put a new turn in line; asks for what it lacks, unless its turn comes later."""
        self._by_id[sequence.turn_id] = sequence
        insort(self.waiting, sequence, key=_by_order)
        if len(self._by_id) > self._num_slots:
            return []
        return self.park_if_lacking(sequence, self.match(sequence))

    def park_if_lacking(self, sequence: Sequence, match: Match) -> list[PixelsNeeded]:
        """Take a waiting turn out of the line while another computes its beginning, or while it
        lacks pixels, which it then asks for, or features."""
        images = self._caches.images
        missing: SequenceOf[str] = ()
        is_parked = self._claims.wait_or_claim(sequence, match.num_tokens)
        if not is_parked:
            missing = images.await_missing(sequence, match.num_tokens)
            is_parked = bool(missing) or images.park_if_unready(sequence, match.num_tokens)
        if is_parked:
            self.waiting.remove(sequence)
            sequence.state = SequenceState.PARKED
        return [PixelsNeeded(sequence.turn_id, digest) for digest in missing]

    def take_pixels(self, image: PixelImage) -> None:
        """Have the images of those turns encoded that waited for no other pixels."""
        images = self._caches.images
        for sequence in images.put(image):
            if not images.park_if_unready(sequence, self.match(sequence).num_tokens):
                self._put_in_line((sequence,))

    def take_features(self, digest: str) -> int:
        """Put those turns back in line that waited for an image's features; returns their number
        of tokens."""
        num_tokens, woken = self._caches.images.encoding.finish(digest)
        self._put_in_line(woken)
        return num_tokens

    def _put_in_line(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            sequence.state = SequenceState.WAITING
            insort(self.waiting, sequence, key=_by_order)

    # --- running --------------------------------------------------------------------------------

    def start(self, sequence: Sequence, match: Match, reservation: Reservation) -> None:
        """Let the first in line run, with the blocks that were reserved for it."""
        assert sequence is self.waiting[0]
        del self.waiting[0]
        sequence.start(reservation, match.num_tokens)
        insort(self.running, sequence, key=_by_order)

    def restore(self, sequence: Sequence) -> BlockCopy | None:
        """Have the next block of a turn's KV brought back from the host, or what is left of it
        copied."""
        moves, index = self._caches.pool.moves, sequence.num_committed
        sequence.is_arriving = True
        if sequence.num_stored:
            block_hash = sequence.chain.hashes[index]
            sequence.blocks[index] = moves.restore(sequence.blocks[index], block_hash)
            sequence.num_stored -= 1
            sequence.take_cached(self._caches.pool.block_size)
            return None
        sequence.wants_part = False
        parent = sequence.blocks[index - 1] if index else None
        content = sequence.chain.content(index, sequence.num_reusable)
        num_tokens, copy = moves.restore_part(sequence.blocks[index], parent, content)
        sequence.take_cached(num_tokens)
        return copy

    def settle(self) -> list[Sequence]:
        """A step was carried out; returns the turns whose KV is all there by it."""
        self._caches.pool.moves.settle()
        arrived = []
        for sequence in self.running:
            if sequence.is_arriving:
                sequence.is_arriving = False
                if not sequence.is_restoring:
                    arrived.append(sequence)
        return arrived

    def begin(self, sequence: Sequence) -> None:
        """Something of a turn is computed for the first time."""
        self._rounds.begin(sequence.order)

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """The next ``num_tokens`` of a turn are in KV: name full blocks, let go of features."""
        sequence.was_computed = True
        sequence.num_computed += num_tokens
        self._caches.images.release_computed(sequence)
        num_full = sequence.num_computed // self._caches.pool.block_size
        for index in range(sequence.num_committed, num_full):
            self._commit(sequence, index, sequence.chain.hashes[index])
            sequence.num_committed += 1

    def last_running(self) -> Sequence:
        """Who gives way when there is no room: of the client that runs most turns the last one. So
        it is the first of all turns only if no other runs."""
        num_running = Counter(sequence.client for sequence in self.running)
        return max(self.running, key=lambda each: (num_running[each.client], each.order))

    def preempt(self, sequence: Sequence) -> None:
        """Take a running turn's blocks, and put it back in line."""
        self.running.remove(sequence)
        self._caches.images.release_held(sequence)
        self._give_back(sequence)
        sequence.reset()
        self._put_in_line((sequence, *self._claims.forget(sequence)))

    def remove(self, sequence: Sequence) -> int | None:
        """Take a turn out of whatever holds it. What it computed stays cached; returns the last
        block of that."""
        tip = None
        del self._by_id[sequence.turn_id]
        self._rounds.leave(sequence.client)
        if sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
            tip = self._give_back(sequence)
        elif sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        self._caches.images.forget(sequence)
        self._put_in_line(self._claims.forget(sequence))
        return tip

    def _commit(self, sequence: Sequence, index: int, block_hash: bytes | None) -> None:
        blocks = sequence.blocks
        parent = blocks[index - 1] if index else None
        content = sequence.chain.content(index, sequence.num_computed)
        blocks[index] = self._caches.pool.commit(blocks[index], parent, content, block_hash)
        if block_hash is not None:
            self._put_in_line(self._claims.settle(block_hash))

    def _give_back(self, sequence: Sequence) -> int | None:
        """Free a turn's blocks, each of them named for what is computed in it; returns the last
        that is named."""
        num_named = sequence.num_committed
        if sequence.num_computed > num_named * self._caches.pool.block_size:
            self._commit(sequence, num_named, None)
            num_named += 1
        for block_hash in self._pinned(sequence):
            self._caches.pool.moves.unpin(block_hash)
        self._caches.pool.free(sequence.blocks)
        return sequence.blocks[num_named - 1] if num_named else None

    def _pinned(self, sequence: Sequence) -> SequenceOf[bytes]:
        """The blocks that are kept on the host, or wherever they have come to, for a turn."""
        first = sequence.num_committed
        return sequence.chain.hashes[first : first + sequence.num_stored]

    # --- invariants -----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert that every turn stands where its state says, and holds what the pool says."""
        pool = self._caches.pool
        sequences = tuple(self._by_id.values())
        self._caches.images.check_integrity(sequences)
        self._claims.check_integrity(sequences)
        self._rounds.check_integrity(Counter(sequence.client for sequence in sequences))
        for line in (self.waiting, self.running):
            assert line == sorted(line, key=_by_order)
        assert len(self.running) + self.num_parked <= self._num_slots
        num_users = [0] * (pool.num_blocks + pool.host.num_slots)
        for sequence in sequences:
            state = sequence.state
            assert (sequence in self.running) == (state is SequenceState.RUNNING)
            assert (sequence in self.waiting) == (state is SequenceState.WAITING)
            lacks = bool(sequence.awaited) + bool(sequence.unready) + bool(sequence.waits_for)
            assert lacks == (state is SequenceState.PARKED), "who is parked waits for one thing"
            assert bool(sequence.blocks) == (state is SequenceState.RUNNING)
            assert sequence.num_computed <= len(sequence.blocks) * pool.block_size
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            assert not sequence.is_arriving, "what is moved arrives with the step"
            for block in (*sequence.blocks, *map(pool.moves.find, self._pinned(sequence))):
                num_users[block] += 1
        assert num_users == [pool.num_users(block) for block in range(len(num_users))]
