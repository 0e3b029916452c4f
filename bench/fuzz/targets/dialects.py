"""Any body under any headers: a command, or an error that blames the request. Nothing else."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

import msgspec

from bench.fuzz.dice import Dice, at_random
from bench.fuzz.target import Target
from bench.fuzz.targets.bodies import SESSION, json_body
from vlm_sessions.errors import MAX_MESSAGE_CHARS, VlmError
from vlm_sessions.protocol.dialects import Call, ChatDialect, read_chat, read_invocation
from vlm_sessions.protocol.headers import SESSION_ID
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.schema import Command

_CHAT = ChatDialect("demo", clock=lambda: 0.0)
_INVOCATIONS, _COMPLETIONS = "/invocations", "/v1/chat/completions"

_ENCODINGS = (*["utf-8"] * 40, "utf-8-sig", "utf-16", "latin-1", "utf-7")
_SESSIONS = (None, "", "NEW_SESSION", SESSION)
_CONTENT_TYPES = (
    *["application/json"] * 40,
    *("", "image/png", "image/svg+xml", "IMAGE/X; a=b", "multipart/form-data", "text/plain", ";"),
)


def json_bytes(dice: Dice, value: Any) -> bytes:
    """A value as JSON, in one encoding or another; some of it damaged, a little no JSON at all."""
    if dice.one_in(20):
        return dice.randbytes(dice.randrange(200))
    text = json.dumps(value, ensure_ascii=dice.one_in(2))
    body = bytearray(text.encode(dice.choice(_ENCODINGS), errors="replace"))
    if dice.one_in(6):
        for _ in range(dice.randrange(1, 5)):
            at = dice.randrange(len(body) + 1)
            body[at : at + dice.randrange(5)] = dice.randbytes(dice.randrange(5))
    return bytes(body)


def make_request(dice: Dice) -> HttpRequest:
    headers = {"content-type": dice.text() if dice.one_in(12) else dice.choice(_CONTENT_TYPES)}
    body = json_body(dice)
    session = SESSION if needs_session(body) else None
    if dice.one_in(5):
        session = dice.text(20) if dice.one_in(2) else dice.choice(_SESSIONS)
    if session is not None:
        headers[SESSION_ID] = session
    is_chat = isinstance(body, dict) and "messages" in body
    path = _COMPLETIONS if dice.one_in(2 if is_chat else 12) else _INVOCATIONS
    return HttpRequest("request", "POST", path, headers, json_bytes(dice, body))


def needs_session(body: Any) -> bool:
    """Whether it would be refused without one, as far as its first words tell."""
    if not isinstance(body, dict):
        return False
    kind = body.get("type", body.get("requestType"))
    return kind not in (None, "open_session", "generate", "start_session", "NEW_SESSION")


def _check(request: HttpRequest) -> str:
    try:
        call = (read_invocation if request.path == _INVOCATIONS else read_chat)(request, _CHAT)
    except VlmError as error:
        return refused(error, statuses=range(400, 416))
    return _understood(call)


def refused(error: VlmError, statuses: Container[int]) -> str:
    """The code of an error that blames the request, in words that can be shown anywhere."""
    assert error.status in statuses, error.status
    assert 0 < len(error.message) <= MAX_MESSAGE_CHARS
    assert error.message.isprintable(), error.message
    return error.code


def _understood(call: Call) -> str:
    command: Any = call.command
    assert isinstance(command, Command)
    # It goes on to the engine's process, whose socket holds no larger numbers.
    assert msgspec.msgpack.encode(command.model_dump())
    return f"→ {command.type}"


def dialects_target() -> Target[HttpRequest]:
    return Target(at_random(make_request), _check)
