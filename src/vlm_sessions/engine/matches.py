"""What was found of a prefix, and what was reserved to go on from there."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_sessions.engine.types import BlockCopy


@dataclass(frozen=True, slots=True)
class Match:
    """A prefix as it was found."""

    num_tokens: int = 0
    full: tuple[int, ...] = ()
    """Blocks of the device that are needed as they are."""
    stored: tuple[int, ...] = ()
    """Blocks of the host that go on from there, needed as they are."""
    partial: int | None = None
    """The block after them, wherever it is, of which the first ``num_partial`` tokens are needed
    too."""
    num_partial: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks that now belong to the caller, each to be given back by ``free``."""

    blocks: tuple[int, ...]
    """The full ones of the match come first, never to be written; the others are the caller's."""
    num_tokens: int
    """How many tokens are in them already, from the first on."""
    num_stored: int = 0
    """Blocks after those tokens that the caller is to bring back from the host with ``restore``, or
    to give up with ``unpin``."""
    copy: BlockCopy | None = None
    """To be done before anything else is written, in the order of the reservations."""
    is_arriving: bool = False
    """Whether some of them are being brought back in the step that is planned, so that they may be
    read from the next step on."""
