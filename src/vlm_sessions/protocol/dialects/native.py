"""Our own dialect: bodies are commands, replies are results, streams are three named events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_sessions.errors import BadRequest, InvalidField, SessionIdMismatch, UnknownType, VlmError
from vlm_sessions.protocol.dialects.base import Call
from vlm_sessions.protocol.headers import format_time
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.jsonio import show_name, validate
from vlm_sessions.protocol.replies import (
    AnswerReply,
    CancelledReply,
    ClosedReply,
    DescribedReply,
    ErrorFields,
    ErrorReply,
    OpenedReply,
    RewoundReply,
)
from vlm_sessions.protocol.schema import (
    Answer,
    Cancelled,
    CancelPrompt,
    Closed,
    CloseSession,
    Command,
    Described,
    DescribeSession,
    ForkSession,
    Generate,
    Opened,
    OpenSession,
    Prompt,
    RawImage,
    RewindSession,
    Rewound,
    TextDelta,
)
from vlm_sessions.protocol.sse import named_event

COMMANDS: Mapping[str, type[Command]] = {
    "open_session": OpenSession,
    "prompt": Prompt,
    "cancel_prompt": CancelPrompt,
    "describe_session": DescribeSession,
    "fork_session": ForkSession,
    "rewind_session": RewindSession,
    "close_session": CloseSession,
    "generate": Generate,
}

SEND_THE_HEADER = "send the header X-Amzn-SageMaker-Session-Id: <session_id>"


def read_native(fields: Mapping[str, Any], session_id: str | None) -> Call:
    """A JSON body with a ``type`` of ours.

    Raises:
        UnknownType: no such type.
        InvalidField: a field is missing, unknown, of the wrong type or out of range.
        SessionIdMismatch: header and body name different sessions.
        BadRequest: a command that needs a session has none, or the reverse.
    """
    name = fields["type"]
    model = COMMANDS.get(name) if isinstance(name, str) else None
    if model is None:
        raise UnknownType(
            f'type: "{show_name(name)}" is not a request type; known are {", ".join(COMMANDS)}.'
        )
    check_body_session_id(fields, session_id)
    command = validate(model, {k: v for k, v in fields.items() if k != "session_id"}, name)
    _refuse_raw_images(command, name)
    require_fitting_session(command, session_id)
    return Call(command, session_id, NativeWriter())


def read_image(request: HttpRequest, content_type: str, session_id: str | None) -> Call:
    """A body that is itself an image opens a session with it.

    Raises:
        BadRequest: the request names a session already, or the body is empty.
    """
    if session_id is not None:
        raise BadRequest(
            "An image as the body opens a new session, but the header names one. To show it in "
            'this session send JSON: {"type":"prompt","prompt":"…","images":[{"data":base64}]}.'
        )
    if not request.body:
        raise BadRequest("The body is empty: send the bytes of the image.")
    image = RawImage(content=request.body, content_type=content_type)
    return Call(OpenSession(images=(image,)), None, NativeWriter())


def check_body_session_id(fields: Mapping[str, Any], session_id: str | None) -> None:
    """A body may repeat the header's id, and no other.

    Raises:
        InvalidField: not a string, or an id in the body alone.
        SessionIdMismatch: header and body name different sessions.
    """
    body_id = fields.get("session_id")
    if body_id is None:
        return
    if not isinstance(body_id, str):
        raise InvalidField("session_id: must be a string")
    if session_id is None:
        raise InvalidField(f"session_id: the id travels in the header only; {SEND_THE_HEADER}.")
    if body_id != session_id:
        raise SessionIdMismatch(
            "The session_id in the body is not the one in the header. Send it in the header only."
        )


def require_fitting_session(command: Command, session_id: str | None) -> None:
    """Whether a session is named must fit what is asked.

    Raises:
        BadRequest: it does not; the message says what to send.
    """
    match command:
        case OpenSession() if session_id is not None:
            raise BadRequest(
                "The header names a session, but this request opens a new one. Leave the header "
                "out, or send NEW_SESSION in it."
            )
        case Generate() if session_id is not None:
            raise BadRequest(
                'generate works without a session. Leave the session header out, or send "prompt".'
            )
        case Prompt() if session_id is None:
            raise BadRequest(
                f"prompt needs a session: {SEND_THE_HEADER}, as open_session returned it, or send "
                '"generate" for an answer without one.'
            )
        case (
            CancelPrompt() | DescribeSession() | ForkSession() | RewindSession() | CloseSession()
        ) if session_id is None:
            raise BadRequest(f"{command.type} needs a session: {SEND_THE_HEADER}.")
        case _:
            pass


def _refuse_raw_images(command: Command, name: str) -> None:
    # The schema knows raw images for bodies that are one; in JSON they could not be bytes.
    for index, image in enumerate(getattr(command, "images", ())):
        if isinstance(image, RawImage):
            raise InvalidField(
                f'{name}.images[{index}]: must be a URL, a data URL, base64, or {{"data": base64}}'
            )


class NativeWriter:
    """Replies of our own dialect."""

    def opened(self, opened: Opened) -> bytes:
        return OpenedReply(
            session_id=opened.lifetime.session_id,
            expires_at=format_time(opened.lifetime.expires_at),
            images=opened.images,
        ).to_json()

    def answer(self, answer: Answer) -> bytes:
        return _answer_reply(answer).to_json()

    def cancelled(self, cancelled: Cancelled) -> bytes:
        return CancelledReply(cancelled=cancelled.cancelled).to_json()

    def described(self, described: Described) -> bytes:
        return DescribedReply(
            session_id=described.lifetime.session_id,
            created_at=format_time(described.created_at),
            last_used_at=format_time(described.last_used_at),
            expires_at=format_time(described.lifetime.expires_at),
            max_expires_at=format_time(described.max_expires_at),
            system=described.system,
            images=described.images,
            turns=described.turns,
            tokens=described.tokens,
            dropped_turns=described.dropped_turns,
            caches=described.caches,
        ).to_json()

    def rewound(self, rewound: Rewound) -> bytes:
        return RewoundReply(rewound=rewound.rewound, turns=rewound.turns).to_json()

    def closed(self, closed: Closed) -> bytes:
        return ClosedReply(closed=closed.closed).to_json()

    def error(self, error: VlmError) -> bytes:
        return _error_reply(error).to_json()

    def stream_start(self) -> bytes:
        return b""

    def stream_delta(self, delta: TextDelta) -> bytes:
        return named_event("token", delta.model_dump())

    def stream_answer(self, answer: Answer) -> bytes:
        return named_event("done", _answer_reply(answer).model_dump())

    def stream_error(self, error: VlmError) -> bytes:
        return named_event("error", _error_reply(error).model_dump())


def _answer_reply(answer: Answer) -> AnswerReply:
    return AnswerReply(
        text=answer.text,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        timing=answer.timing,
    )


def _error_reply(error: VlmError) -> ErrorReply:
    return ErrorReply(error=ErrorFields(code=error.code, message=error.message))
