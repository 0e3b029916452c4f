"""Replies: successes with their headers and streams, and every error under its status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus

from pydantic import BaseModel

from vlm_sessions import errors
from vlm_sessions.endpoint.openapi.schemas import Schema, any_of, ref, schemas_of
from vlm_sessions.protocol import eventstream, headers, sse
from vlm_sessions.protocol.openai_schema import (
    ChatCompletion,
    ChatCompletionChunk,
    ModelList,
    OpenAIErrorReply,
)
from vlm_sessions.protocol.replies import (
    AnswerReply,
    CancelledReply,
    ClosedReply,
    DescribedReply,
    ErrorReply,
    HealthReply,
    OpenedReply,
    RewoundReply,
    SampleAnswerReply,
    SampleClosedReply,
    SampleOpenedReply,
)
from vlm_sessions.protocol.schema import TextDelta

NATIVE_REPLIES: tuple[type[BaseModel], ...] = (
    *(OpenedReply, AnswerReply, CancelledReply, DescribedReply, RewoundReply, ClosedReply),
    *(SampleOpenedReply, SampleAnswerReply, SampleClosedReply),
)
NATIVE_EVENTS: Mapping[str, type[BaseModel]] = {
    "token": TextDelta,
    "done": AnswerReply,
    "error": ErrorReply,
}
"""Name of an event -> its data."""
CHAT_EVENTS: tuple[type[BaseModel], ...] = (ChatCompletionChunk, OpenAIErrorReply)
"""Data of events without a name."""

OF_THE_EDGE: Mapping[int, type[errors.VlmError]] = {
    400: errors.BadRequest,
    408: errors.BadRequest,
    413: errors.PayloadTooLarge,
    431: errors.HeadersTooLarge,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
"""Status -> the error that HAProxy says under it, on any path."""

_OTHERS: tuple[type[BaseModel], ...] = (ModelList, HealthReply)
_NO_OPERATION = frozenset({405})
"""What is answered to a method that the path does not have."""


def reply_schemas() -> dict[str, Schema]:
    """Name -> schema."""
    events = (*NATIVE_EVENTS.values(), *CHAT_EVENTS)
    models: list[type[BaseModel]] = [*NATIVE_REPLIES, *events, ChatCompletion, *_OTHERS]
    return schemas_of(dict.fromkeys(models), "serialization")


def success(model: type[BaseModel] | None, content_type: str = "application/json") -> Schema:
    """A reply of one shape; ``None``: any text."""
    schema = {"type": "string"} if model is None else ref(model)
    return _reply("OK", {content_type: {"schema": schema}})


def command_success(bodies: Iterable[type[BaseModel]], *, native: bool) -> Schema:
    """To a command: a body, or a stream of events, either framed for who asks for frames.

    ``x-events`` are the data of a stream's events, by their names.
    """
    events: Schema = {"message": any_of([*map(ref, CHAT_EVENTS), {"const": "[DONE]"}])}
    if native:
        events |= {name: ref(model) for name, model in NATIVE_EVENTS.items()}
    # Without a schema: some take it for that of the text, others for that of each event.
    stream = {"x-events": events}
    return {
        **_reply(
            "OK",
            {
                "application/json": {"schema": any_of([ref(body) for body in bodies])},
                sse.CONTENT_TYPE.partition(";")[0]: stream,
                eventstream.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}},
            },
        ),
        "headers": {
            **_COMMON_HEADERS,
            headers.SESSION_ID: _text_header("<id>; Expires=<time>: its life, renewed."),
            headers.NEW_SESSION_ID: _text_header("The same, of a session just opened."),
            headers.CLOSED_SESSION_ID: _text_header("The id of a session just closed."),
        },
    }


def error_replies(*, of_commands: bool, guarded: bool = True) -> dict[str, Schema]:
    """Status -> reply. Commands may meet any error; other requests those of any path.

    Args:
        guarded: whether a key is asked for where there are keys.
    """
    found: dict[int, set[str]] = {500: {errors.Internal.code}, 503: set()}
    if guarded:
        found[errors.Unauthorized.status] = {errors.Unauthorized.code}
    for status, error in OF_THE_EDGE.items():
        found.setdefault(status, set()).add(error.code)
    for error in _tree(errors.VlmError):
        if (of_commands or error.status == 503) and error.status not in _NO_OPERATION:
            found.setdefault(error.status, set()).add(error.code)
    return {str(status): _error_reply(status, codes) for status, codes in sorted(found.items())}


def _tree(root: type[errors.VlmError]) -> Iterator[type[errors.VlmError]]:
    for error in root.__subclasses__():
        if error.__module__ == errors.__name__:
            yield error
            yield from _tree(error)


def _error_reply(status: int, codes: Iterable[str]) -> Schema:
    code = {"properties": {"error": {"properties": {"code": {"enum": sorted(codes)}}}}}
    shapes = any_of([ref(ErrorReply), ref(OpenAIErrorReply)])
    reply = _reply(
        HTTPStatus(status).phrase, {"application/json": {"schema": {"allOf": [shapes, code]}}}
    )
    reply["headers"] |= {
        "retry-after": {
            "description": "Seconds after which the same request may succeed.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "x-should-retry": {
            "description": "For OpenAI's clients, where they would repeat in vain.",
            "schema": {"const": "false"},
        },
    }
    return reply


def _text_header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


_COMMON_HEADERS: Schema = {headers.REQUEST_ID: _text_header("As in the logs.")}


def _reply(description: str, content: Schema) -> Schema:
    return {"description": description, "headers": dict(_COMMON_HEADERS), "content": content}
