"""What a prompt is about: which tokens it gives the engine, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from vlm_sessions.engine.types import ImageSpan, Retention
from vlm_sessions.processing import Segment
from vlm_sessions.protocol.schema import Lifetime
from vlm_sessions.sessions.session import ImagePlace, Session


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """All that the engine needs to know of a prompt."""

    tokens: tuple[int, ...]
    images: tuple[ImageSpan, ...]
    max_new_tokens: int
    """How many tokens of an answer fit the context."""
    contents: Mapping[str, bytes]
    """digest -> encoded bytes of images that the journal does not have, or not yet."""
    num_earlier_answers: int
    """In the conversation; 0: this is its first prompt."""
    num_dropped_turns: int = 0
    """Of those, the ones that ``tokens`` leave out."""
    retention: Retention | None = None


@dataclass(frozen=True, slots=True)
class FinishedAnswer:
    """All that the record needs to know of an answer."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str


class Work(Protocol):
    """One prompt, from being let in to being recorded."""

    @property
    def session_id(self) -> str | None: ...

    @property
    def client(self) -> str | None:
        """Who asks; ``None`` without API keys."""
        ...

    def in_use(self) -> AbstractContextManager[None]:
        """Held while the prompt waits and runs."""
        ...

    async def prepare(self) -> PreparedTurn:
        """Called once, when it is this prompt's turn.

        Raises:
            VlmError: the prompt is refused.
        """
        ...

    @property
    def lifetime(self) -> Lifetime | None:
        """As it was last made true; ``None``: it was not, or there is no session."""
        ...

    async def announce(self) -> None:
        """Make true the lifetime that is announced with the first event."""
        ...

    async def record(self, answer: FinishedAnswer) -> None:
        """Called once, for an answer that counts."""
        ...


def salt_of(client: str | None) -> str:
    """What sets a client's part of the engine's caches apart; nothing does without API keys."""
    return client or ""


def lifetime_of(session: Session) -> Lifetime:
    return Lifetime(session_id=session.id, expires_at=session.expires_at)


def to_spans(places: Iterable[ImagePlace]) -> tuple[ImageSpan, ...]:
    """The record's places as the engine's spans."""
    return tuple(ImageSpan(place.digest, place.start, place.length) for place in places)


def to_places(segment: Segment) -> tuple[ImagePlace, ...]:
    """A segment's spans as the record's places."""
    return tuple(ImagePlace(span.digest, span.start, span.length) for span in segment.images)
