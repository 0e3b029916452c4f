"""A streamed answer, from the bytes of its events, free of I/O: the same for both clients."""

from __future__ import annotations

from vlm_sessions.client.errors import (
    STATUS_OF_LATE_ERRORS,
    ClientError,
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
        self._failure: ClientError | None = None

    @property
    def answer(self) -> Answer | None:
        """The finished answer; ``None`` until its last event has come."""
        return self._answer

    def feed(self, chunk: bytes) -> list[str]:
        """The pieces of text that became complete with ``chunk``. A failure that stands behind
        them in the same chunk is raised by the next call.

        Raises:
            ServiceError: the service reports that the answer failed.
            ProtocolError: an event is not one of the protocol.
        """
        self._raise_failure()
        pieces: list[str] = []
        try:
            for event in self._parser.feed(chunk):
                if piece := self._take(event):
                    pieces.append(piece)
        except ClientError as exc:
            if not pieces:
                raise
            self._failure = exc
        return pieces

    def finish(self) -> None:
        """The reply is over.

        Raises:
            ServiceError, ProtocolError: as ``feed``.
            ConnectionFailed: it ended before the answer did.
        """
        self._raise_failure()
        if self._answer is None:
            raise ConnectionFailed("the connection ended in the middle of the answer")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

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


class StreamedAnswer:
    """What a stream knows of its answer, however it waits for it."""

    def __init__(self) -> None:
        self._reader = AnswerReader()

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not come to its end.
        """
        if self._reader.answer is None:
            raise RuntimeError("the answer is complete only after its last piece was taken")
        return self._reader.answer
