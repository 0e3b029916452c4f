"""The dialect of AWS's LLaVA sample (aws-samples/sagemaker-genai-hosting-examples, LLava).

    start_session {path}                       → {"session_id"}
    send_text_prompt {session_id, prompt_text} → {"response_text"}
    close_session {session_id}                 → {"success": true}

Its clients send the id in the header (boto3's ``SessionId``) and in the body as well; the two must
be equal. Their serializer writes absent fields as null, which therefore counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vlm_sessions.protocol.dialects.base import Call
from vlm_sessions.protocol.dialects.native import (
    NativeWriter,
    check_body_session_id,
    require_fitting_session,
)
from vlm_sessions.protocol.jsonio import validate
from vlm_sessions.protocol.replies import (
    SampleAnswerReply,
    SampleClosedReply,
    SampleOpenedReply,
)
from vlm_sessions.protocol.schema import (
    Answer,
    Closed,
    CloseSession,
    Command,
    Opened,
    OpenSession,
    Prompt,
)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StartSession(_Body):
    type: Literal["start_session"]
    path: str = Field(min_length=1)
    """A URL of the image; whatever ``open_session`` takes works too."""


class SendTextPrompt(_Body):
    type: Literal["send_text_prompt"]
    prompt_text: str = Field(min_length=1)


class SampleCloseSession(_Body):
    type: Literal["close_session"]


def speaks_sample(fields: Mapping[str, Any]) -> bool:
    """``close_session`` is a word of ours too: with an id in its body it is the sample's."""
    kind = fields.get("type")
    return kind in ("start_session", "send_text_prompt") or (
        kind == "close_session" and fields.get("session_id") is not None
    )


def read_sample(fields: Mapping[str, Any], session_id: str | None) -> Call:
    """A body of the sample's clients.

    Raises:
        InvalidField: a field is missing, unknown or of the wrong type.
        SessionIdMismatch: header and body name different sessions.
        BadRequest: a session is named where none may be, or the reverse.
    """
    check_body_session_id(fields, session_id)
    given = {k: v for k, v in fields.items() if k != "session_id" and v is not None}
    command = _translate(given)
    require_fitting_session(command, session_id)
    return Call(command, session_id, SampleWriter())


def _translate(fields: Mapping[str, Any]) -> Command:
    match fields["type"]:
        case "start_session":
            return OpenSession(images=(validate(StartSession, fields, "start_session").path,))
        case "send_text_prompt":
            body = validate(SendTextPrompt, fields, "send_text_prompt")
            return Prompt(prompt=body.prompt_text)
        case _:
            validate(SampleCloseSession, fields, "close_session")
            return CloseSession()


class SampleWriter(NativeWriter):
    """The sample's three replies. Errors, which the sample does not have, are ours."""

    def opened(self, opened: Opened) -> bytes:
        return SampleOpenedReply(session_id=opened.lifetime.session_id).to_json()

    def answer(self, answer: Answer) -> bytes:
        return SampleAnswerReply(response_text=answer.text).to_json()

    def closed(self, closed: Closed) -> bytes:
        return SampleClosedReply(success=closed.closed).to_json()
