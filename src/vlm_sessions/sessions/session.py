"""The record of one session, and the few ways in which it changes.

A ``Session`` is immutable; each change gives a new one, so that a change which could not be
journalled simply never happened.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain

from vlm_sessions.errors import MalformedSessionId

# SageMaker's pattern; an id of its shape that is not ours is unknown, any other is malformed.
SESSION_ID = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_SESSION_ID_CHARS = 200
JOURNAL_MARGIN = 0.1
"""Share of the idle time by which the journal's lifetime runs ahead of the announced one. A renewal
within it is covered by what is on disk, so that most prompts' first token waits for no disk."""
SESSION_ID_PREFIX = "ts-seq-"
SESSION_ID_BYTES = 16


class SessionState(StrEnum):
    OPEN = "open"
    """Answers prompts; every use renews its lifetime."""
    CLOSED = "closed"
    """Ended by its client. Its images and conversation are gone, its id is remembered a while."""
    EXPIRED = "expired"
    """Ended by time, otherwise as closed."""


# Every transition there is: an ended session stays as it ended.
TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.OPEN: frozenset({SessionState.CLOSED, SessionState.EXPIRED}),
    SessionState.CLOSED: frozenset(),
    SessionState.EXPIRED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class SessionImage:
    """An image of a session: facts about it, never its bytes."""

    digest: str
    """sha256 of the encoded bytes, hex."""
    width: int
    height: int
    """Pixels, as a person sees it (after the orientation of its EXIF data)."""
    num_tokens: int
    format: str
    """As Pillow names it: ``JPEG``, ``PNG`` …"""


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """An image's placeholders fill ``[start, start + length)`` of a turn's prompt tokens."""

    digest: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """One question and its answer, as text for people and as tokens for the model."""

    prompt: str
    images: tuple[ImagePlace, ...]
    prompt_tokens: tuple[int, ...]
    """What the question added to the conversation: its segment, not what came before."""
    answer_tokens: tuple[int, ...]
    answer: str
    """As the client saw it. A stop string may cut it inside what its last token would say; then
    ``answer_tokens`` ends before that token."""
    finish_reason: str

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(place.digest for place in self.images)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_tokens) + len(self.answer_tokens)


@dataclass(frozen=True, slots=True)
class Session:
    """One open session. Times are seconds since the epoch."""

    id: str
    model: str
    """Fingerprint of the processor whose tokens these are."""
    created_at: float
    last_used_at: float
    expires_at: float
    """Slides: ``min(last use + idle_seconds, max_expires_at)``."""
    max_expires_at: float
    idle_seconds: float
    system: str | None
    opening_system: str | None
    """The system text that the session was opened with. A first turn may bring one in its place."""
    num_opening_images: int
    """How many of ``images`` came with the opening; they belong to the first turn."""
    owner: str | None = None
    """The client that opened it, and that alone may use it; ``None``: there were no API keys."""
    images: tuple[SessionImage, ...] = ()
    """In the order in which they came; the same picture sent twice is here twice."""
    turns: tuple[SessionTurn, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The conversation: each turn's prompt and answer, one after another."""
        return tuple(
            chain.from_iterable(
                chain(turn.prompt_tokens, turn.answer_tokens) for turn in self.turns
            )
        )

    @property
    def places(self) -> tuple[ImagePlace, ...]:
        """Where the images stand in ``tokens``."""
        places: list[ImagePlace] = []
        offset = 0
        for turn in self.turns:
            places.extend(replace(place, start=place.start + offset) for place in turn.images)
            offset += turn.num_tokens
        return tuple(places)

    @property
    def pending_images(self) -> tuple[SessionImage, ...]:
        """Those that still wait for a first turn to belong to."""
        return () if self.turns else self.images

    def kept_ahead(self) -> Session:
        """As it is journalled: with a lifetime a little longer than any that was announced."""
        margin = self.idle_seconds * JOURNAL_MARGIN
        return replace(self, expires_at=min(self.expires_at + margin, self.max_expires_at))

    def used(self, now: float) -> Session:
        """The session with its lifetime renewed; an announced lifetime never shrinks."""
        expires_at = min(now + self.idle_seconds, self.max_expires_at)
        return replace(
            self,
            last_used_at=max(now, self.last_used_at),
            expires_at=max(expires_at, self.expires_at),
        )

    def with_turn(
        self, turn: SessionTurn, *, images: Iterable[SessionImage], system: str | None, now: float
    ) -> Session:
        """The session after ``turn``, which brought ``images`` of its own."""
        renewed = self.used(now)
        return replace(
            renewed, system=system, images=(*self.images, *images), turns=(*self.turns, turn)
        )

    def rewound(self, num_turns: int, now: float) -> Session:
        """The session without its last ``num_turns`` turns and what they brought."""
        assert 0 < num_turns <= len(self.turns)
        kept = self.turns[:-num_turns]
        num_images = sum(len(turn.images) for turn in kept) if kept else self.num_opening_images
        return replace(
            self.used(now),
            system=self.system if kept else self.opening_system,
            images=self.images[:num_images],
            turns=kept,
        )

    def forked(self, *, now: float, idle_seconds: float, max_seconds: float) -> Session:
        """Another session, with an id and a lifetime of its own, that has seen and said as much."""
        opened = open_session(
            model=self.model,
            now=now,
            idle_seconds=idle_seconds,
            max_seconds=max_seconds,
            system=self.opening_system,
            images=self.images[: self.num_opening_images],
            owner=self.owner,
        )
        return replace(opened, system=self.system, images=self.images, turns=self.turns)

    def is_over(self, now: float, *, in_use: bool) -> bool:
        """Whether its time has come. For one in use, only the absolute maximum counts."""
        return now >= (self.max_expires_at if in_use else self.expires_at)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of an ended session: enough to answer 410 rather than 404."""

    session_id: str
    state: SessionState
    ended_at: float
    owner: str | None = None
    """As the session's: others get 404."""


def end_session(session: Session, state: SessionState, now: float) -> Tombstone:
    """The one place where a session ends."""
    assert state in TRANSITIONS[SessionState.OPEN], state
    return Tombstone(session.id, state, now, session.owner)


def open_session(
    *,
    model: str,
    now: float,
    idle_seconds: float,
    max_seconds: float,
    system: str | None,
    images: tuple[SessionImage, ...],
    owner: str | None = None,
) -> Session:
    """A new record under a fresh id."""
    max_expires_at = now + max_seconds
    return Session(
        id=new_session_id(),
        model=model,
        created_at=now,
        last_used_at=now,
        expires_at=min(now + idle_seconds, max_expires_at),
        max_expires_at=max_expires_at,
        idle_seconds=idle_seconds,
        system=system,
        opening_system=system,
        num_opening_images=len(images),
        owner=owner,
        images=images,
    )


def new_session_id() -> str:
    """128 bits of the system's random source: who does not know an id cannot guess it.

    The prefix is TorchServe's own; notebooks for AWS's LLaVA sample assert that it is there.
    """
    return SESSION_ID_PREFIX + secrets.token_hex(SESSION_ID_BYTES)


def check_session_id(text: str) -> str:
    """Return ``text`` if it could be an id.

    Raises:
        MalformedSessionId: it could not.
    """
    # Length first: the pattern backtracks on long runs of hyphens.
    if len(text) > MAX_SESSION_ID_CHARS or SESSION_ID.fullmatch(text) is None:
        raise MalformedSessionId(
            "This is not a session id. Send the one that open_session returned, unchanged, "
            "in the header X-Amzn-SageMaker-Session-Id."
        )
    return text
