"""A streamed answer, from the bytes of its events, free of I/O."""

from __future__ import annotations

from vlm_sessions.client.errors import (
    STATUS_OF_LATE_ERRORS,
    ConnectionFailed,
    ProtocolError,
    service_error,
)
from vlm_sessions.client.fields import Fields
from vlm_sessions.client.replies import answer_of
from vlm_sessions.client.sse import ServerSentEvent, SseParser
from vlm_sessions.client.types import Answer


class AnswerReader:
    """Feed it the reply's bytes; it gives the pieces of text, and at the end the answer."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer | None:
        """The finished answer; ``None`` until its last event has come."""
        return self._answer

    def feed(self, chunk: bytes) -> list[str]:
        """The pieces of text that became complete with ``chunk``.

        Raises:
            ServiceError: the service reports that the answer failed.
            ProtocolError: an event is not one of the protocol.
        """
        pieces = (self._take(event) for event in self._parser.feed(chunk))
        return [piece for piece in pieces if piece]

    def finish(self) -> None:
        """The reply is over.

        Raises:
            ConnectionFailed: it ended before the answer did.
        """
        if self._answer is None:
            raise ConnectionFailed("the connection ended in the middle of the answer")

    def _take(self, event: ServerSentEvent) -> str:
        fields = Fields.parse(event.data)
        if event.event == "token":
            return fields.text("text")
        if event.event == "done":
            self._answer = answer_of(fields)
            return ""
        if event.event == "error":
            error = fields.object("error")
            code = error.text("code")
            raise service_error(STATUS_OF_LATE_ERRORS.get(code, 500), code, error.text("message"))
        raise ProtocolError(f"unknown event {event.event!r} in the answer's stream")
