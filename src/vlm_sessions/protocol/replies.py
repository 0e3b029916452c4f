"""Bodies of replies, as they go over the wire: our own dialect's, and the three of AWS's sample.

The writers build them, and the OpenAPI document is made from them: what is described is what is
sent. OpenAI's are in ``openai_schema``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from vlm_sessions.protocol.jsonio import dump_json
from vlm_sessions.protocol.schema import CacheState, ImageInfo, Timing, TurnInfo, Usage

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""UTC, ``yyyy-mm-ddThh:mm:ssZ``, as in the headers."""


class Body(BaseModel):
    """A JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        return dump_json(self.model_dump())


class OpenedReply(Body):
    """A session was opened or forked."""

    session_id: str
    expires_at: Time
    images: tuple[ImageInfo, ...]


class AnswerReply(Body):
    """A whole answer; also the data of a stream's ``done`` event."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage
    timing: Timing


class CancelledReply(Body):
    """Whether something was running."""

    cancelled: bool


class DescribedReply(Body):
    """The record of a session, less its images' bytes, and where its caches are."""

    session_id: str
    created_at: Time
    last_used_at: Time
    expires_at: Time
    max_expires_at: Time
    system: str | None
    images: tuple[ImageInfo, ...]
    turns: tuple[TurnInfo, ...]
    tokens: int
    dropped_turns: int
    caches: CacheState


class RewoundReply(Body):
    """How many turns were taken back, and how many are left."""

    rewound: int
    turns: int


class ClosedReply(Body):
    closed: Literal[True]


class ErrorFields(Body):
    """``code`` is for programs and never changes its meaning, ``message`` is for people."""

    code: str
    message: str


class ErrorReply(Body):
    """An error; also the data of a stream's ``error`` event."""

    error: ErrorFields


class SampleOpenedReply(Body):
    """To ``start_session``."""

    session_id: str


class SampleAnswerReply(Body):
    """To ``send_text_prompt``."""

    response_text: str


class SampleClosedReply(Body):
    """To ``close_session`` with the id in its body."""

    success: Literal[True]


class HealthReply(Body):
    """The service would answer a prompt now; how much it has to do."""

    status: Literal["Healthy"]
    open_sessions: int
    prompts: int
    """Running or waiting."""
