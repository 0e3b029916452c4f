"""Any header of a session and any Accept: an id that is safe wherever it goes, or an error."""

from __future__ import annotations

import re

from bench.fuzz.dice import Dice, at_random
from bench.fuzz.target import Target
from bench.fuzz.targets.dialects import refused
from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.eventstream import CONTENT_TYPE, accepts_event_stream
from vlm_sessions.protocol.headers import (
    MAX_SESSION_ID_CHARS,
    NEW_SESSION,
    SESSION_ID,
    SESSION_ID_PATTERN,
    closed_headers,
    opened_headers,
    read_session_id,
    sanitize,
)
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.schema import Lifetime

_PIECES = (
    *("ts-seq-", "0123456789abcdef", "-", "--", ";", " ", "\t", "\r\n", "NEW_SESSION"),
    *("; Expires=2026", "a" * 199, "a" * 200, "é", "../", "%0d%0a", "٣", "Set-Cookie: a=b"),
)
_RANGES = (CONTENT_TYPE, CONTENT_TYPE.upper(), "*/*", ";q=0", ";q=0.0", ";q=1", ",", "=")


def _make(dice: Dice) -> HttpRequest:
    session = dice.pieces(_PIECES, 4)
    if dice.one_in(3):  # nearly one of ours
        session = f"ts-seq-{dice.getrandbits(128):032x}" + dice.choice(_PIECES) * dice.randrange(2)
    headers = {SESSION_ID: session[:400], "accept": dice.pieces(_RANGES, 5)}
    return HttpRequest("request", "POST", "/invocations", headers, b"")


_WELL_FORMED = re.compile(SESSION_ID_PATTERN)


def _check(request: HttpRequest) -> str:
    framed = accepts_event_stream(request)
    if framed:
        assert CONTENT_TYPE in request.headers["accept"].lower()
    try:
        session_id = read_session_id(request)
    except VlmError as error:
        return refused(error, statuses=(400,))
    if session_id is None:
        assert request.headers[SESSION_ID].strip() in ("", NEW_SESSION)
        return "→ no session, framed" if framed else "→ no session"
    assert _WELL_FORMED.fullmatch(session_id)
    assert len(session_id) <= MAX_SESSION_ID_CHARS
    lifetime = Lifetime(session_id=session_id, expires_at=0.0)
    for told in (opened_headers(lifetime), closed_headers(session_id)):
        assert sanitize(told) == told, "a reply's header would be changed on its way"
    return "→ a session, framed" if framed else "→ a session"


def headers_target() -> Target[HttpRequest]:
    return Target(at_random(_make), _check)
