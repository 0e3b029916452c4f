"""Every error a client can meet, as one tree.

    VlmError
    ├── BadRequest 400             the request is malformed
    │   ├── InvalidJson            the body is not JSON
    │   ├── InvalidField           a field is missing, unknown, of the wrong type or out of range
    │   ├── UnknownType            no such request type or path
    │   ├── SessionIdMismatch      header and body name different sessions
    │   ├── MalformedSessionId     the id cannot be one of ours
    │   └── ReservedText           the text holds a token that the model reserves
    ├── Unauthorized 401           no API key of this service came with the request
    ├── NotFound 404
    │   └── SessionNotFound        never opened here, forgotten long ago, or another client's
    ├── MethodNotAllowed 405
    ├── Conflict 409
    │   ├── SessionBusy            a prompt of the session is running or waiting
    │   ├── ModelChanged           the session's tokens are those of another model
    │   └── ConversationMismatch   chat messages that neither continue nor extend the session
    ├── Gone 410
    │   ├── SessionClosed
    │   ├── SessionExpired
    │   └── SessionLost            the replica that held it is gone; told by a router
    ├── PayloadTooLarge 413        body, image bytes or pixels over a limit
    ├── UnsupportedMedia 415       a content type or an image format that is not accepted
    ├── Unprocessable 422
    │   ├── InvalidImage           the bytes are not an image, or a broken one
    │   ├── ImageUnreachable       a URL that could not be fetched
    │   ├── ImageForbidden         a URL that may not be fetched
    │   ├── TooFewTurns            more turns are to be taken back than the session has
    │   ├── ContextOverflow        the conversation would not fit the model's context
    │   └── TooManyImages
    ├── HeadersTooLarge 431        headers over the limit, together
    ├── TooManyRequests 429        with Retry-After
    │   ├── QueueFull              the session, its client, or the service, has enough waiting
    │   ├── Overloaded             it would wait too long, with so many before it
    │   └── TooManySessions        the client, or the service, has enough open
    ├── Internal 500               a bug of ours
    ├── Unavailable 503            with Retry-After
    │   ├── EngineUnavailable      the engine is starting or being replaced
    │   ├── EngineLost             the engine died while it worked on this prompt
    │   └── Draining               the service is shutting down
    ├── DeadlineExceeded 504       the prompt ran out of time
    └── InsufficientStorage 507    the journal has no room

An error changes nothing: the session is as it was. ``code`` is for programs and never changes its
meaning; ``message`` is for people, says what to do, and never contains prompt text. SageMaker
cuts what it passes on at 2048 characters, hence short messages.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE_CHARS = 1000


class VlmError(Exception):
    """Base of all errors that reach a client.

    Args:
        message: one or two sentences for a person: what is wrong, and how to put it right.
        retry_after: seconds after which the same request may succeed; ``None``: it will not.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message[:MAX_MESSAGE_CHARS])
        self.message = message[:MAX_MESSAGE_CHARS]
        self.retry_after = retry_after if retry_after is not None else self.default_retry_after


class BadRequest(VlmError):
    code, status = "bad_request", 400


class InvalidJson(BadRequest):
    code = "invalid_json"


class InvalidField(BadRequest):
    code = "invalid_field"


class UnknownType(BadRequest):
    code = "unknown_type"


class SessionIdMismatch(BadRequest):
    code = "session_id_mismatch"


class MalformedSessionId(BadRequest):
    code = "malformed_session_id"


class ReservedText(BadRequest):
    code = "reserved_text"


class Unauthorized(VlmError):
    code, status = "unauthorized", 401


class NotFound(VlmError):
    code, status = "not_found", 404


class SessionNotFound(NotFound):
    code = "session_not_found"


class MethodNotAllowed(VlmError):
    code, status = "method_not_allowed", 405


class Conflict(VlmError):
    code, status = "conflict", 409


class SessionBusy(Conflict):
    code = "session_busy"


class ModelChanged(Conflict):
    code = "model_changed"


class ConversationMismatch(Conflict):
    code = "conversation_mismatch"


class Gone(VlmError):
    code, status = "gone", 410


class SessionClosed(Gone):
    code = "session_closed"


class SessionExpired(Gone):
    code = "session_expired"


class SessionLost(Gone):
    code = "session_lost"


class PayloadTooLarge(VlmError):
    code, status = "payload_too_large", 413


class UnsupportedMedia(VlmError):
    code, status = "unsupported_media", 415


class Unprocessable(VlmError):
    code, status = "unprocessable", 422


class InvalidImage(Unprocessable):
    code = "invalid_image"


class ImageUnreachable(Unprocessable):
    code = "image_unreachable"


class ImageForbidden(Unprocessable):
    code = "image_forbidden"


class TooFewTurns(Unprocessable):
    code = "too_few_turns"


class ContextOverflow(Unprocessable):
    code = "context_overflow"


class TooManyImages(Unprocessable):
    code = "too_many_images"


class HeadersTooLarge(VlmError):
    code, status = "headers_too_large", 431


class TooManyRequests(VlmError):
    code, status = "too_many_requests", 429
    default_retry_after = 1.0


class QueueFull(TooManyRequests):
    code = "queue_full"


class Overloaded(TooManyRequests):
    code = "overloaded"


class TooManySessions(TooManyRequests):
    code = "too_many_sessions"


class Internal(VlmError):
    code, status = "internal", 500


class Unavailable(VlmError):
    code, status = "unavailable", 503
    default_retry_after = 1.0


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"


class EngineLost(Unavailable):
    code = "engine_lost"


class Draining(Unavailable):
    code = "draining"


class DeadlineExceeded(VlmError):
    code, status = "deadline_exceeded", 504


class InsufficientStorage(VlmError):
    code, status = "insufficient_storage", 507


class ConfigError(Exception):
    """A setting is unknown, malformed or contradicts another. Ends start-up, never a request."""
