"""What the client gives back. Frozen, and free of how it travelled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn. ``cached_tokens`` of the ``prompt_tokens`` were not computed again.

    ``dropped_turns`` is how many of the session's oldest turns the model was not given, since they
    no longer fitted its context.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    dropped_turns: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds since the service took the request. ``ttft_ms``: until the first token."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. ``finish_reason`` is ``stop``, ``length`` or ``cancelled``."""

    text: str
    finish_reason: str
    usage: Usage
    timing: Timing

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image as the service sees it: digest of its encoded bytes, pixels, prompt tokens."""

    sha256: str
    width: int
    height: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened or forked. ``expires_at`` moves with every use."""

    session_id: str
    expires_at: datetime
    images: tuple[ImageInfo, ...]


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """One question and its answer. ``images`` are the digests of those that came with it."""

    prompt: str
    images: tuple[str, ...]
    answer: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class CacheState:
    """Where the conversation is cached just now."""

    kv_tokens: int
    host_kv_tokens: int
    feature_images: int
    host_feature_images: int
    pixel_images: int


@dataclass(frozen=True, slots=True)
class Description:
    """A session's record, less its bytes. Times are in UTC."""

    session_id: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    max_expires_at: datetime
    system: str | None
    images: tuple[ImageInfo, ...]
    turns: tuple[TurnInfo, ...]
    tokens: int
    """Of the conversation as the model is given it."""
    dropped_turns: int
    """How many of ``turns`` it is not given, because they no longer fit its context."""
    caches: CacheState
