"""One request: TorchServe's context and data as ``HttpRequest``, ``HttpReply`` as its messages.

The edge says in headers of its own what TorchServe would lose: the method (TorchServe passes none
on), the path as it was sent, the version of HTTP, and the content type (the front end parses form
types itself, and ``curl -d`` declares one for every body). Without an edge the request counts as a
POST.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Protocol

from vlm_sessions.errors import BadRequest, Internal, VlmError
from vlm_sessions.protocol.headers import error_headers
from vlm_sessions.protocol.http import Chunks, HttpReply, HttpRequest

MAX_MESSAGE_BYTES = 8192
"""Of a message's body. Small messages let the streams of all requests take turns on one socket."""
MAX_PIECE_BYTES = 2**23
"""Of a body that must be one message. The front end drops the worker at twice as much."""

METHOD_HEADER = "x-edge-method"
PATH_HEADER = "x-edge-path"
VERSION_HEADER = "x-edge-version"
CONTENT_TYPE_HEADER = "x-edge-content-type"
MARK_HEADER = "x-vlm-sessions"
"""On every reply of ours; the edge removes it, and replaces error replies that do not carry it."""

STREAM_NEXT = "ts_stream_next"
# Headers that TorchServe's front end adds to a request for its handlers.
_INTERNAL = frozenset(
    {
        *("url_path", "explain", "content-type"),
        *(METHOD_HEADER, PATH_HEADER, VERSION_HEADER, CONTENT_TYPE_HEADER),
    }
)


class Context(Protocol):
    """What is used of ``ts.context.Context``; there is one request in it, at index 0."""

    request_ids: Mapping[int, str]

    def get_request_id(self, idx: int = 0) -> str | None: ...
    def get_all_request_header(self, idx: int) -> Mapping[str, Any]: ...
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...
    def get_response_headers(self, idx: int) -> dict[str, str]: ...


class Encoder(Protocol):
    """``ts.protocol.otf_message_handler.create_predict_response``."""

    def __call__(  # noqa: PLR0917  (its signature is TorchServe's)
        self,
        ret: list[bytes],
        req_id_map: Mapping[int, str],
        message: str,
        code: int,
        context: Context,
        ts_stream_next: bool = False,
    ) -> bytes: ...


class Sender(Protocol):
    async def send(self, data: bytes) -> None: ...


def read_request(data: list[Mapping[str, Any]], context: Context) -> HttpRequest:
    """The request as the edge received it."""
    headers = _headers(context)
    content_type = headers.get(CONTENT_TYPE_HEADER, headers.get("content-type"))
    kept = {name: value for name, value in headers.items() if name not in _INTERNAL}
    if content_type:
        kept["content-type"] = content_type
    return HttpRequest(
        request_id=headers.get("x-request-id") or context.get_request_id(0) or "",
        method=headers.get(METHOD_HEADER, "POST"),
        path=headers.get(PATH_HEADER) or "/" + headers.get("url_path", ""),
        headers=kept,
        body=_body(data[0]) if data else b"",
    )


def _headers(context: Context) -> dict[str, str]:
    """Lower-case name -> value."""
    return {
        name.lower(): value
        for name, value in context.get_all_request_header(0).items()
        if isinstance(value, str)  # the parameters' own headers are dicts
    }


def _body(parameters: Mapping[str, Any]) -> bytes:
    value = parameters.get("body", parameters.get("data", b""))
    return value.encode() if isinstance(value, str) else bytes(value)


async def write_reply(reply: HttpReply, context: Context, encode: Encoder, sender: Sender) -> None:
    """Send the whole reply, and the message that makes the front end forget the request.

    Raises:
        ConnectionError: the front end has gone.
    """
    takes_chunks = _headers(context).get(VERSION_HEADER) != "1.0"
    if not takes_chunks:
        reply = await _in_one_piece(reply)
    context.set_response_status(reply.status, HTTPStatus(reply.status).phrase)
    context.set_response_header(0, MARK_HEADER, "1")
    for name, value in reply.headers.items():
        context.set_response_header(0, name, value)
    if not isinstance(reply.body, bytes):
        await _write_chunks(reply.body, context, encode, sender)
    elif takes_chunks and reply.status < 400 and len(reply.body) > MAX_MESSAGE_BYTES:
        await _write_chunks(_split(reply.body), context, encode, sender)
    else:
        await _write_whole(reply.body, context, encode, sender)


async def write_failure(context: Context, encode: Encoder, sender: Sender) -> None:
    """After an exception of ours: an error reply, or the end of a stream that has begun."""
    error = Internal("The service failed to answer. This is a bug; please report it.")
    state = context.get_response_headers(0).get(STREAM_NEXT)
    try:
        if state == "true":
            context.set_response_header(0, STREAM_NEXT, "false")
            await sender.send(bytes(encode([b""], context.request_ids, "ok", 200, context)))
        elif state is None:
            await write_reply(plain_refusal(error), context, encode, sender)
    except ConnectionError:
        return


def plain_refusal(error: VlmError) -> HttpReply:
    """An error in words of the adapter's own, where the service could not, or no longer can.

    Args:
        error: with a message without quotes.
    """
    headers = {"content-type": "application/json", **error_headers(error)}
    body = f'{{"error":{{"code":"{error.code}","message":"{error.message}"}}}}'.encode()
    return HttpReply(error.status, headers, body)


async def _write_whole(body: bytes, context: Context, encode: Encoder, sender: Sender) -> None:
    """A reply with a length, in one piece: the front end closes an error's connection after it.

    The front end sends a message that announces no stream as the whole reply, but keeps the request
    for ever. A closing message frees it. Both go out together, so that the second cannot fall into
    the next reply on the same client connection.
    """
    reply = encode([body], context.request_ids, "ok", 200, context)
    context.set_response_header(0, STREAM_NEXT, "false")
    closing = encode([b""], context.request_ids, "ok", 200, context)
    await sender.send(bytes(reply) + bytes(closing))


async def _write_chunks(chunks: Chunks, context: Context, encode: Encoder, sender: Sender) -> None:
    num_sent = 0

    async def send(piece: bytes, *, more: bool) -> None:
        if num_sent:  # the front end uses those of the first message only
            context.get_response_headers(0).clear()
        if not more:
            context.set_response_header(0, STREAM_NEXT, "false")
        message = encode([piece], context.request_ids, "ok", 200, context, ts_stream_next=more)
        await sender.send(bytes(message))

    async with aclosing(chunks):  # a front end that has gone must not leave a prompt running
        async for chunk in chunks:
            for start in range(0, len(chunk), MAX_MESSAGE_BYTES):
                await send(chunk[start : start + MAX_MESSAGE_BYTES], more=True)
                num_sent += 1
    if not num_sent:
        await send(b"", more=True)
        num_sent += 1
    await send(b"", more=False)


async def _in_one_piece(reply: HttpReply) -> HttpReply:
    """For a client of HTTP/1.0, which cannot read chunks."""
    body = reply.body
    if not isinstance(body, bytes):
        async with aclosing(body):
            body = b"".join([chunk async for chunk in body])
    if len(body) > MAX_PIECE_BYTES:
        return plain_refusal(BadRequest("The reply is too long for HTTP/1.0. Use HTTP/1.1."))
    return HttpReply(reply.status, reply.headers, body)


async def _split(body: bytes) -> AsyncGenerator[bytes]:
    yield body
