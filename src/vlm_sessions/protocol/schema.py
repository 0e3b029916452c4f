"""Commands and results: what the service is asked and what it answers, free of any dialect.

Commands are our own dialect's request bodies as well (pydantic, unknown fields refused); the other
dialects are translated into them at the door (``dialects.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

MAX_ITEMS = 4096
"""Of any list in a request. A session's own limit is far lower; this one keeps the event loop from
being held up by lists that nobody could mean."""

COUNT_LIMIT = 2**31
"""Of any count in a request: more than can be meant, less than a socket or a device can hold."""


class _Model(BaseModel):
    # What has a default is written all the same: in the description of a reply it is required.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_serialization_defaults_required=True,
    )


class InlineImage(_Model):
    """An image in the request itself."""

    data: str = Field(description="The encoded image (JPEG, PNG, …), base64.")


class RawImage(BaseModel):
    """An image that came as the request's body. Never part of a JSON body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: bytes
    content_type: str


ImageInput = str | InlineImage | SkipJsonSchema[RawImage]
"""A URL (http, https), a data URL, base64, or bytes."""

Images = Annotated[tuple[ImageInput, ...], FailFast(), Field(max_length=MAX_ITEMS)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class SamplingOptions(_Model):
    """Greedy unless a temperature is given."""

    max_new_tokens: int | None = Field(None, ge=1, lt=COUNT_LIMIT)
    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, lt=COUNT_LIMIT, description="0: no limit.")
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[tuple[StopText, ...], FailFast()] = Field((), max_length=8, strict=False)
    ignore_eos: bool = False


class OpenSession(_Model):
    type: Literal["open_session"] = "open_session"
    images: Images = Field((), strict=False)
    system: str | None = None


class Prompt(SamplingOptions):
    type: Literal["prompt"] = "prompt"
    prompt: str = Field(min_length=1)
    images: Images = Field((), strict=False)
    stream: bool = False


class ChatMessage(_Model):
    """One message of a chat, its parts sorted: images first, then the text parts joined."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: Images = ()


class Chat(SamplingOptions):
    """Messages in place of a prompt. In a session: new ones, or the conversation and more."""

    type: Literal["chat"] = "chat"
    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    stream: bool = False


class CancelPrompt(_Model):
    type: Literal["cancel_prompt"] = "cancel_prompt"


class DescribeSession(_Model):
    type: Literal["describe_session"] = "describe_session"


class ForkSession(_Model):
    """A new session that shares everything said and shown so far, and goes its own way."""

    type: Literal["fork_session"] = "fork_session"


class RewindSession(_Model):
    """The last turns are taken back, with the images that came with them."""

    type: Literal["rewind_session"] = "rewind_session"
    turns: int = Field(1, ge=1, lt=COUNT_LIMIT)


class CloseSession(_Model):
    type: Literal["close_session"] = "close_session"


class Generate(SamplingOptions):
    """A prompt without a session."""

    type: Literal["generate"] = "generate"
    prompt: str = Field(min_length=1)
    images: Images = Field((), strict=False)
    system: str | None = None
    stream: bool = False


Command = (
    OpenSession
    | Prompt
    | Chat
    | CancelPrompt
    | DescribeSession
    | ForkSession
    | RewindSession
    | CloseSession
    | Generate
)

# --- results ------------------------------------------------------------------------------------


class ImageInfo(_Model):
    sha256: str
    width: int
    height: int
    tokens: int


class Lifetime(_Model):
    """Announced with every reply on a session: seconds since the epoch, UTC."""

    session_id: str
    expires_at: float


class Opened(_Model):
    """A session that was opened or forked."""

    lifetime: Lifetime
    images: tuple[ImageInfo, ...]


class Usage(_Model):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    dropped_turns: int = 0
    """How many of the session's oldest turns the model was not given: they no longer fitted."""


class Timing(_Model):
    """Milliseconds since the service took the request."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float


class TextDelta(_Model):
    """A piece of an answer, as it comes."""

    text: str


class Answer(_Model):
    """A finished answer: the last event of every prompt that did not fail."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage
    timing: Timing
    lifetime: Lifetime | None = None
    """Of the session; ``None`` for a prompt without one."""
    turn_index: int = Field(0, ge=0)
    """How many answers the conversation had before this one. For metrics; not sent to clients."""


AnswerEvent = TextDelta | Answer


class Cancelled(_Model):
    lifetime: Lifetime
    cancelled: bool
    """Whether something was running."""


class CacheState(_Model):
    """Where a session's conversation is cached just now."""

    kv_tokens: int
    """On the device."""
    host_kv_tokens: int
    """After those, on the host."""
    feature_images: int
    """On the device."""
    host_feature_images: int
    pixel_images: int


class TurnInfo(_Model):
    prompt: str
    images: tuple[str, ...]
    answer: str
    finish_reason: str


class Described(_Model):
    lifetime: Lifetime
    created_at: float
    last_used_at: float
    max_expires_at: float
    system: str | None
    images: tuple[ImageInfo, ...]
    turns: tuple[TurnInfo, ...]
    tokens: int
    """Of the conversation as the model is given it."""
    dropped_turns: int = 0
    """How many of ``turns`` it is not given, because they no longer fit."""
    caches: CacheState


class Rewound(_Model):
    lifetime: Lifetime
    rewound: int
    """How many turns were taken back."""
    turns: int
    """How many are left."""


class Closed(_Model):
    session_id: str
    closed: Literal[True] = True
