"""Whole replies: JSON, errors, and the headers that all replies have."""

from __future__ import annotations

from collections.abc import Mapping

from vlm_sessions.errors import MethodNotAllowed, VlmError
from vlm_sessions.protocol import headers
from vlm_sessions.protocol.dialects import Call, NativeWriter
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.protocol.openai_reply import openai_error

JSON = "application/json"
OPENAI_PATHS = "/v1/"


def json_reply(body: bytes, extra: Mapping[str, str] | None = None) -> HttpReply:
    """A success; ``extra`` are headers."""
    return HttpReply(200, {"content-type": JSON, **(extra or {})}, body)


def error_reply(
    error: VlmError, request: HttpRequest, call: Call | None, allowed_method: str | None
) -> HttpReply:
    """An error in the dialect of its request, or of its path where the request was not read."""
    if call is not None:
        body = call.writer.error(error)
    elif request.path.startswith(OPENAI_PATHS):
        body = openai_error(error)
    else:
        body = NativeWriter().error(error)
    reply_headers = {"content-type": JSON, **headers.error_headers(error)}
    if request.path.startswith(OPENAI_PATHS) and error.retry_after is None:
        # OpenAI's clients repeat every 409 and 5xx by themselves, a timed-out prompt as well.
        reply_headers["x-should-retry"] = "false"
    if isinstance(error, MethodNotAllowed) and allowed_method is not None:
        reply_headers["allow"] = allowed_method
    return HttpReply(error.status, reply_headers, body)


def with_common_headers(reply: HttpReply, request: HttpRequest) -> HttpReply:
    """The request's id on every reply, and no header that could smuggle in another."""
    return HttpReply(
        reply.status,
        headers.sanitize({**reply.headers, headers.REQUEST_ID: request.request_id}),
        reply.body,
    )
