"""One turn on its way through the scheduler: what of it is computed, and what it holds."""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, auto

from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.matches import Reservation
from vlm_sessions.engine.rounds import Place
from vlm_sessions.engine.types import Draw, ImageSlice, ImageSpan, TokenSpan, Turn


class SequenceState(Enum):
    """Transitions are made in ``turns.py`` only."""

    WAITING = auto()
    """In line for blocks; holds none."""
    PARKED = auto()
    """Waits for pixels, for features, or for what another turn computes; holds no blocks."""
    RUNNING = auto()
    """Holds blocks for all its tokens so far."""


class Sequence:
    """The tokens of a turn and of its answer so far, and how far they are computed.

        0            num_computed                  num_tokens
        ├── in KV ───┼── to be computed ───────────┤
        images: released │ held (next_image … next_unheld) │ not yet needed

    A turn that decodes has exactly one token to be computed: the one sampled last.
    """

    def __init__(self, turn: Turn, *, order: Place, block_size: int, arrived_at: float) -> None:
        self.turn = turn
        self.order = order
        """Who is first in line, and who is preempted last. Of two turns the one whose place is
        lower is called the older one."""
        self.arrived_at = arrived_at
        self.started_at: float | None = None
        self.state = SequenceState.WAITING
        self.chain = TokenChain(turn.tokens, turn.images, block_size, turn.salt)
        self.tokens = self.chain.tokens
        self.num_computed = 0
        self.blocks: list[int] = []
        self.num_committed = 0
        """Leading blocks that are full, computed and named in the pool."""
        self.num_stored = 0
        """Blocks after those that are to be brought back from the host, and are pinned there."""
        self.wants_part = False
        """Whether a part of the block after them is to be brought back too."""
        self.is_arriving = False
        """Whether some of its blocks are on their way in the step that is planned."""
        self.next_image = 0
        self.next_unheld = 0
        self.awaited: set[str] = set()
        """Digests that it is parked for."""
        self.unready: tuple[ImageSpan, ...] = ()
        """Images that it is parked for until the features of the first are there."""
        self.encoded_for: set[str] = set()
        """Digests that were encoded for it, until it holds them."""
        self.claims: set[bytes] = set()
        """Hashes of the blocks that it is about to compute, so that others need not."""
        self.waits_for: bytes | None = None
        """Hash of the block that it is parked for until an older turn has computed it."""
        self.pinned: set[str] = set()
        """Digests whose pixels are kept for it."""
        self.num_reused = 0
        """Tokens of its prompt that were in KV before anything was computed for it."""
        self.num_restored = 0
        """Those of them that came from the host, as far as they have."""
        self.num_encoded = 0
        self.was_computed = False
        """Whether a step has computed something of it."""
        self.prefill_reported = False
        self._block_size = block_size

    # --- what it is -----------------------------------------------------------------------------

    @property
    def turn_id(self) -> str:
        return self.turn.turn_id

    @property
    def client(self) -> str:
        return self.turn.client or self.turn.turn_id

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_prompt(self) -> int:
        return len(self.turn.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - len(self.turn.tokens)

    @property
    def wants_token(self) -> bool:
        """Whether something is to be sampled once all its tokens are computed."""
        return self.num_output < self.turn.sampling.max_new_tokens

    @property
    def is_computed(self) -> bool:
        return self.num_computed == len(self.tokens)

    @property
    def is_decoding(self) -> bool:
        return self.prefill_reported and self.num_computed == len(self.tokens) - 1

    @property
    def is_restoring(self) -> bool:
        """Whether it waits for its own KV, and so computes nothing in the step that is planned."""
        return bool(self.num_stored or self.wants_part or self.is_arriving)

    @property
    def num_blocks_needed(self) -> int:
        return -(-len(self.tokens) // self._block_size)

    @property
    def num_reusable(self) -> int:
        """Tokens that need not be computed if they are cached: one is left if one is drawn."""
        return len(self.tokens) - int(self.wants_token)

    # --- what it goes through -------------------------------------------------------------------

    def start(self, reservation: Reservation, num_cached: int) -> None:
        """Take over reserved blocks for all its tokens, of which ``num_cached`` are computed, here
        or on the host."""
        self.state = SequenceState.RUNNING
        self.blocks = list(reservation.blocks)
        self.num_stored = reservation.num_stored
        self.is_arriving = reservation.is_arriving
        self.num_computed = 0
        self.next_image = self.next_unheld = 0
        self.take_cached(reservation.num_tokens)
        if not self.was_computed:
            self.num_restored = 0
        num_whole = reservation.num_tokens + self.num_stored * self._block_size
        self.wants_part = num_whole < num_cached

    def take_cached(self, num_tokens: int) -> None:
        """The next ``num_tokens`` are in its blocks, or will be at the end of the step."""
        self.num_computed += num_tokens
        self.num_committed = self.num_computed // self._block_size
        if not self.was_computed:
            self.num_restored += self.num_computed - self.num_reused
            self.num_reused = self.num_computed
        self.release_images()
        self.next_unheld = self.next_image

    def reset(self) -> None:
        """Lose its blocks; tokens and output stay, to be computed again."""
        self.state = SequenceState.WAITING
        self.blocks = []
        self.num_committed = self.num_computed = self.num_stored = 0
        self.wants_part = self.is_arriving = False

    def append(self, token: int) -> None:
        self.chain.append(token)

    def unheld_image(self, end: int) -> ImageSpan | None:
        """The next image needed to compute up to ``end`` whose features it does not hold."""
        images = self.turn.images
        if self.next_unheld < len(images) and images[self.next_unheld].start < end:
            return images[self.next_unheld]
        return None

    def parked_at(self) -> int | None:
        """Where the first image stands that it is parked for."""
        if self.unready:
            return self.unready[0].start
        return next((i.start for i in self.turn.images if i.digest in self.awaited), None)

    def held_images(self) -> tuple[ImageSpan, ...]:
        return self.turn.images[self.next_image : self.next_unheld]

    def release_images(self) -> tuple[ImageSpan, ...]:
        """Move past the images that are computed to their end; returns them."""
        images, first = self.turn.images, self.next_image
        while self.next_image < len(images):
            image = images[self.next_image]
            if image.start + image.length > self.num_computed:
                break
            self.next_image += 1
        return images[first : self.next_image]

    def images_needed(self, num_cached: int) -> tuple[ImageSpan, ...]:
        """Images of which a placeholder lies beyond the first ``num_cached`` tokens."""
        return tuple(i for i in self.turn.images if i.start + i.length > num_cached)

    def span(self, end: int) -> TokenSpan:
        """The work of computing its tokens from ``num_computed`` to ``end``."""
        start = self.num_computed
        draw = None
        if end == len(self.tokens) and self.wants_token:
            draw = Draw(self.turn.sampling, self.num_output)
        return TokenSpan(
            turn_id=self.turn.turn_id,
            tokens=tuple(self.tokens[start:end]),
            start=start,
            blocks=tuple(self.blocks),
            images=self._slices(start, end),
            draw=draw,
        )

    def _slices(self, start: int, end: int) -> tuple[ImageSlice, ...]:
        if start >= self.num_prompt or not self.turn.images:
            return ()
        slices = []
        for image in self.held_images():
            first = max(start, image.start)
            last = min(end, image.start + image.length)
            if first < last:
                slices.append(
                    ImageSlice(image.digest, first - image.start, first - start, last - first)
                )
        return tuple(slices)


def check_turn(turn: Turn, in_flight: Container[str]) -> None:
    """Check what the engine relies on.

    Raises:
        ValueError: the turn's id is in flight already, it has no tokens, or its images overlap or
            lie outside them.
    """
    if turn.turn_id in in_flight:
        raise ValueError(f"turn {turn.turn_id} is in flight already")
    if not turn.tokens:
        raise ValueError("a turn needs at least one token")
    if turn.sampling.max_new_tokens < 0:
        raise ValueError("max_new_tokens must not be negative")
    end = 0
    for image in turn.images:
        if image.length < 1 or image.start < end:
            raise ValueError("images must be in order, apart, and at least one token long")
        end = image.start + image.length
    if end > len(turn.tokens):
        raise ValueError("an image lies beyond the last token")
