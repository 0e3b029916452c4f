"""The dialects that clients speak, told apart at the door and translated into commands.

    body                            dialect
    an image (Content-Type image/…) ours: opens a session with it
    {"requestType": …}              AWS's guide, DJL/LMI, vLLM containers   guide.py
    {"type": "start_session" …}     AWS's LLaVA sample                      sample.py
    {"type": …}                     ours                                    native.py
    {"messages": …} without a type  OpenAI's chat                           chat.py

The session id travels in the header only, whatever the dialect. Nothing behind the door knows which
dialect a client speaks.
"""

from __future__ import annotations

from vlm_sessions.errors import UnknownType, UnsupportedMedia
from vlm_sessions.protocol.dialects.base import Call, ReplyWriter
from vlm_sessions.protocol.dialects.chat import ChatDialect
from vlm_sessions.protocol.dialects.guide import read_guide
from vlm_sessions.protocol.dialects.native import COMMANDS, NativeWriter, read_image, read_native
from vlm_sessions.protocol.dialects.sample import read_sample, speaks_sample
from vlm_sessions.protocol.headers import read_session_id
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.jsonio import parse_object

__all__ = ["Call", "ChatDialect", "NativeWriter", "ReplyWriter", "read_chat", "read_invocation"]


def read_invocation(request: HttpRequest, chat: ChatDialect) -> Call:
    """A request to ``/invocations``, in any dialect.

    Raises:
        BadRequest: malformed, or a session is named where none may be, or the reverse.
        UnsupportedMedia: a content type that is neither JSON nor an image.
    """
    session_id = read_session_id(request)
    content_type = _content_type(request)
    if content_type.startswith("image/"):
        return read_image(request, content_type, session_id)
    _require_json(content_type)
    fields = parse_object(request.body)
    if "requestType" in fields:
        return read_guide(fields, session_id)
    if speaks_sample(fields):
        return read_sample(fields, session_id)
    if "type" in fields:
        return read_native(fields, session_id)
    if "messages" in fields:
        return chat.read(fields, session_id, request.request_id)
    raise UnknownType(f'type: is required; send "type" with one of {", ".join(COMMANDS)}.')


def read_chat(request: HttpRequest, chat: ChatDialect) -> Call:
    """A request to ``/v1/chat/completions``: OpenAI's dialect and no other.

    Raises:
        BadRequest: malformed.
        UnsupportedMedia: a content type that is not JSON.
    """
    session_id = read_session_id(request)
    content_type = _content_type(request)
    if content_type.startswith("image/"):
        raise UnsupportedMedia("This path takes JSON; send the image as an image_url part.")
    _require_json(content_type)
    return chat.read(parse_object(request.body), session_id, request.request_id)


def _content_type(request: HttpRequest) -> str:
    """Without parameters, lower case; empty if absent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_json(content_type: str) -> None:
    # Clients that set nothing send curl's form type or octet-stream; their bodies are JSON all the
    # same, and say so themselves if they are not. Only what cannot be JSON is refused by its name.
    if content_type.startswith(("multipart/", "audio/", "video/", "font/", "model/")):
        raise UnsupportedMedia(
            "Content-Type must be application/json, or image/… with an image as the body."
        )
