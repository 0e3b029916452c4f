"""One request's bookkeeping: its metrics, and its one line in the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from vlm_sessions.errors import Internal, VlmError
from vlm_sessions.logs import CONTENT, get_logger
from vlm_sessions.metrics import Metrics
from vlm_sessions.protocol.dialects import Call
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.schema import (
    Answer,
    AnswerEvent,
    Chat,
    Command,
    Generate,
    Prompt,
    TextDelta,
)

# Asked every few seconds by probes and scrapers: worth a line only when looking closely.
_QUIET_ROUTES = frozenset({"ping", "metrics"})


class Exchange:
    """From a request's arrival to the last byte of its reply; ``finish`` counts only once.

    Args:
        route: which of the door's routes, or ``unknown``.
        clock: monotonic seconds.
        log_content: whether the line holds what was asked and answered.
    """

    def __init__(
        self,
        request: HttpRequest,
        route: str,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        log_content: bool,
    ) -> None:
        self._request_id = request.request_id
        self._num_bytes_in = len(request.body)
        self._route = route
        self._metrics = metrics
        self._clock = clock
        self._log_content = log_content
        self.client: str | None = None
        """Who asks, by its API key; ``None`` without keys, and as long as it is not known."""
        self._started = clock()
        self._first_text: float | None = None
        self._call: Call | None = None
        self._session_id: str | None = None
        self._answer: Answer | None = None
        self._finished = False

    @property
    def call(self) -> Call | None:
        """The request as it was understood; ``None`` as long as it was not."""
        return self._call

    def understood(self, call: Call) -> None:
        """The request could be read."""
        self._call = call
        self._session_id = call.session_id

    def opened(self, session_id: str) -> None:
        """A session was opened or forked: it belongs to this request's line."""
        self._session_id = session_id

    async def watch(self, events: AsyncIterator[AnswerEvent]) -> AsyncGenerator[AnswerEvent]:
        """Pass an answer's events on and measure them; closes ``events`` however it ends.

        Raises:
            Internal: the events ended without an ``Answer``.
            VlmError: whatever ``events`` raised.
        """
        last: float | None = None
        try:
            async for event in events:
                now = self._clock()
                if self._first_text is None:
                    self._first_text = now - self._started
                elif isinstance(event, TextDelta) and last is not None:
                    self._metrics.observe_inter_token(now - last)
                last = now
                if isinstance(event, Answer):
                    self._note_answer(event)
                    yield event
                    return
                yield event
        finally:
            await self._close(events)
        raise Internal("The answer broke off. The session is as it was; try again.")

    async def _close(self, events: AsyncIterator[AnswerEvent]) -> None:
        if not isinstance(events, AsyncGenerator):
            return
        try:
            await events.aclose()
        except Exception as exc:  # noqa: BLE001 - the answer stands, however its source ends
            self.crashed(exc)

    def _note_answer(self, answer: Answer) -> None:
        self._answer = answer
        usage = answer.usage
        self._metrics.count_tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            completion=usage.completion_tokens,
        )
        if self._first_text is not None:
            self._metrics.observe_first_token(
                self._first_text,
                turn="follow_up" if answer.turn_index > 0 else "first",
                cached=usage.cached_tokens > 0,
            )

    def finish(
        self, status: int, error: VlmError | None = None, *, abandoned: bool = False
    ) -> None:
        """The reply is complete, or its client left it (``abandoned``)."""
        if self._finished:
            return
        self._finished = True
        seconds = self._clock() - self._started
        operation = self._call.command.type if self._call is not None else "none"
        self._metrics.count_request(
            route=self._route, operation=operation, status=status, seconds=seconds
        )
        fields: dict[str, Any] = {
            "request_id": self._request_id,
            "session_id": self._session_id,
            "route": self._route,
            "operation": operation,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "num_bytes_in": self._num_bytes_in,
        }
        if self.client is not None:
            fields["client"] = self.client
        if self._call is not None and self._call.session_id not in (None, self._session_id):
            fields["parent_session_id"] = self._call.session_id
        if abandoned:
            fields["abandoned"] = True
        if error is not None:
            self._metrics.count_error(error.code)
            fields["code"] = error.code
        if self._answer is not None:
            fields |= self._answer.usage.model_dump()
            fields["finish_reason"] = self._answer.finish_reason
        if self._log_content and self._call is not None:
            fields[CONTENT] = _content(self._call.command, self._answer)
        self._write(error, fields)

    def crashed(self, error: Exception) -> None:
        """A bug of ours: its traceback, in a line of its own."""
        get_logger("endpoint").error(
            "unexpected_error",
            exc_info=error,
            request_id=self._request_id,
            session_id=self._session_id,
        )

    def _write(self, error: VlmError | None, fields: dict[str, Any]) -> None:
        logger = get_logger("endpoint")
        if error is not None and error.status >= 500 and self._route not in _QUIET_ROUTES:
            logger.error("request", **fields)
        elif self._route in _QUIET_ROUTES:
            logger.debug("request", **fields)
        else:
            logger.info("request", **fields)


def _content(command: Command, answer: Answer | None) -> dict[str, Any]:
    """What was asked and answered, without images."""
    prompt: Any = None
    if isinstance(command, Prompt | Generate):
        prompt = command.prompt
    elif isinstance(command, Chat):
        prompt = [{"role": message.role, "text": message.text} for message in command.messages]
    return {"prompt": prompt, "answer": answer.text if answer is not None else None}
