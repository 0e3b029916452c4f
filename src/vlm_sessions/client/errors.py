"""What can go wrong, as a caller of the client meets it.

    ClientError
    ├── ImageNotReadable       a picture named by the caller cannot be read here
    ├── InvalidKey             the API key has characters that no header may have
    ├── ConnectionFailed       the service could not be reached, or the connection broke
    │   └── TimedOut           no byte came for the client's time-out
    ├── ProtocolError          the service sent something that this client does not understand
    └── ServiceError           the service refused or failed; ``code`` and ``message`` are its own
        ├── InvalidRequest     400, 404 (of a path), 405, 413, 415, 422: send something else
        ├── NotAuthorized      401: the service asks for an API key, and this is none of its own
        ├── ConversationConflict   409
        ├── SessionEnded       404 and 410 of a session: open a new one
        ├── Busy               429: the same request may succeed after ``retry_after`` seconds
        ├── ServiceUnavailable 503, and 504: likewise
        └── ServiceFailed      every other status of 400 or more

The server's own tree (``vlm_sessions.errors``) has a class for each code; here are only as many as
a caller would catch. ``code`` carries the rest.
"""

from __future__ import annotations

from http import HTTPStatus

SESSION_CODES = frozenset({"session_not_found", "session_closed", "session_expired"})

# code -> status, for what can still fail once a stream has begun and its status of 200 is sent
STATUS_OF_LATE_ERRORS = {
    "internal": 500,
    "engine_unavailable": 503,
    "engine_lost": 503,
    "draining": 503,
    "deadline_exceeded": 504,
    "insufficient_storage": 507,
    "session_closed": 410,
    "session_expired": 410,
}


class ClientError(Exception):
    """Base of everything that the client raises on purpose.

    Attributes:
        code: for programs, e.g. ``queue_full``; the service's own where it answered.
        status: HTTP status, or ``None`` where no reply came.
        retry_after: seconds after which the same request may succeed, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.retry_after = retry_after


class ImageNotReadable(ClientError):
    def __init__(self, message: str) -> None:
        super().__init__(message, code="image_not_readable")


class InvalidKey(ClientError):
    def __init__(self) -> None:
        super().__init__(
            "the API key has characters that are no part of one; was a line break copied with it?",
            code="invalid_key",
        )


class ConnectionFailed(ClientError):
    def __init__(self, message: str, *, code: str = "connection_failed") -> None:
        super().__init__(message, code=code)


class TimedOut(ConnectionFailed):
    def __init__(self, message: str) -> None:
        super().__init__(message, code="timed_out")


class ProtocolError(ClientError):
    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message, code="protocol_error", status=status)


class ServiceError(ClientError):
    """The service answered with an error. It changed nothing: a session is as it was."""

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.code})"


class InvalidRequest(ServiceError):
    pass


class NotAuthorized(ServiceError):
    pass


class ConversationConflict(ServiceError):
    pass


class SessionEnded(ServiceError):
    pass


class Busy(ServiceError):
    pass


class ServiceUnavailable(ServiceError):
    pass


class ServiceFailed(ServiceError):
    pass


# HTTP status -> class, for the errors that are not about a session
_BY_STATUS: dict[int, type[ServiceError]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: NotAuthorized,
    HTTPStatus.NOT_FOUND: InvalidRequest,
    HTTPStatus.METHOD_NOT_ALLOWED: InvalidRequest,
    HTTPStatus.CONFLICT: ConversationConflict,
    HTTPStatus.GONE: SessionEnded,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: InvalidRequest,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: InvalidRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidRequest,
    HTTPStatus.TOO_MANY_REQUESTS: Busy,
    HTTPStatus.SERVICE_UNAVAILABLE: ServiceUnavailable,
    HTTPStatus.GATEWAY_TIMEOUT: ServiceUnavailable,
}


def service_error(
    status: int, code: str, message: str, retry_after: float | None = None
) -> ServiceError:
    """The exception for an error that the service reported."""
    kind = SessionEnded if code in SESSION_CODES else _BY_STATUS.get(status, ServiceFailed)
    return kind(message, code=code, status=status, retry_after=retry_after)
