"""Structured logs: one line of JSON an event, to one stream.

    {"event":"request","level":"info","timestamp":"2026-01-02T03:04:05.678901Z","request_id":"…",…}

Nothing is set up at import: the composition root calls ``configure_logs`` once in each process.
What people said is never in a line unless the setting asks for it: prompts and answers go into the
field ``content``, which is dropped here otherwise, and exceptions are logged by type and place,
without their messages, which may quote what they choked on.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

LogLevel = Literal["debug", "info", "warning", "error"]

CONTENT = "content"
"""The one field that may hold what people wrote, and what was answered."""

MEMORY_EVENT = "memory"
"""The line in which an engine tells, once it has loaded, what memory went where."""

_LEVEL_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: LogLevel, *, log_content: bool, stream: TextIO | None = None) -> None:
    """Set up this process's logs; the last call counts.

    Args:
        level: the least severe level that is written.
        log_content: whether ``content`` fields and exceptions' messages are kept.
        stream: where lines go; standard error if not given.
    """
    writer = _LineWriter(stream or sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _keep_content if log_content else _drop_content,
            _ExceptionRenderer(with_messages=log_content),
            structlog.processors.UnicodeDecoder(),
            # JSON escapes line breaks: no value can forge a line of its own.
            structlog.processors.JSONRenderer(ensure_ascii=True, default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVEL_NUMBERS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )


def capture_standard_logs() -> None:
    """Lines that our modules write through ``logging`` come out like all others, and only there.

    So do asyncio's, which tells of exceptions that nobody has seen to, and quotes them.
    """
    for name, level in (("vlm_sessions", logging.DEBUG), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [_StandardLogs()]
        logger.propagate = False
        logger.setLevel(level)  # of those, structlog's level decides


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry ``component: name``."""
    logger: FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


def bound_context(**fields: str) -> AbstractContextManager[None]:
    """All lines logged inside, by anyone in this task, carry ``fields`` (``request_id=…``)."""
    return structlog.contextvars.bound_contextvars(**fields)


def _keep_content(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return event


def _drop_content(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.pop(CONTENT, None)
    return event


class _StandardLogs(logging.Handler):
    """Hands the records of ``logging`` on."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name.removeprefix("vlm_sessions."))
        message = record.getMessage()
        if record.name == "asyncio":  # after its first line come tasks with their exceptions' texts
            message = message.partition("\n")[0]
        logger.log(record.levelno, message, exc_info=record.exc_info)


class _LineWriter:
    """Where lines end up: whole, one at a time from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        # Whoever read the log may be gone. A line that cannot be written must not end a request.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    # structlog calls the method that is named like the level.
    debug = info = warning = error = critical = msg


class _ExceptionRenderer:
    """Turns ``exc_info`` into ``exception``: the type and where it was raised, innermost last."""

    def __init__(self, *, with_messages: bool) -> None:
        self._with_messages = with_messages

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        error = _exception(event.pop("exc_info", None))
        if error is not None:
            event["exception"] = self._render(error)
        return event

    def _render(self, error: BaseException) -> str:
        if self._with_messages:
            return "".join(traceback.format_exception(error))
        parts = []
        cause: BaseException | None = error
        while cause is not None:
            frames = "".join(traceback.format_tb(cause.__traceback__))
            parts.append(f"{frames}{type(cause).__module__}.{type(cause).__qualname__}")
            cause = cause.__cause__
        return "\ncaused by\n".join(parts)


def _exception(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


__all__ = [
    "CONTENT",
    "MEMORY_EVENT",
    "LogLevel",
    "bound_context",
    "capture_standard_logs",
    "configure_logs",
    "get_logger",
]
