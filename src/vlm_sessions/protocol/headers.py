"""The headers of a session, in SageMaker's words.

    request   X-Amzn-SageMaker-Session-Id: <id> | NEW_SESSION | absent
    open      X-Amzn-SageMaker-Session-Id and X-Amzn-SageMaker-New-Session-Id: <id>; Expires=<time>
    later     X-Amzn-SageMaker-Session-Id: <id>; Expires=<time>, renewed
    close     X-Amzn-SageMaker-Closed-Session-Id: <id>

The platform reads the first name at an open, vLLM's container library writes the second: an open
carries both. Names are lower case here, as everywhere behind the edge (HTTP does not tell the
difference).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from vlm_sessions.errors import MalformedSessionId, Unauthorized, VlmError
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.schema import Lifetime

SESSION_ID = "x-amzn-sagemaker-session-id"
NEW_SESSION_ID = "x-amzn-sagemaker-new-session-id"
CLOSED_SESSION_ID = "x-amzn-sagemaker-closed-session-id"
REQUEST_ID = "x-request-id"

NEW_SESSION = "NEW_SESSION"
"""What a client of SageMaker sends in place of an id to open a session."""

MAX_SESSION_ID_CHARS = 200
"""The header with ``; Expires=…`` may have 256."""

SESSION_ID_PATTERN = "[a-zA-Z0-9](-*[a-zA-Z0-9])*"
"""SageMaker's."""
# The same in a form that cannot backtrack.
_SESSION_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]*")


def read_session_id(request: HttpRequest) -> str | None:
    """The session that a request names. Absent, empty and ``NEW_SESSION`` alike name none.

    Raises:
        MalformedSessionId: not SageMaker's form of an id.
    """
    value = request.headers.get(SESSION_ID, "").strip()
    if value in ("", NEW_SESSION):
        return None
    if ";" in value:
        raise MalformedSessionId(
            "The session header must hold the id alone: leave out ';' and what follows it."
        )
    well_formed = _SESSION_ID.fullmatch(value) is not None and not value.endswith("-")
    if not well_formed or len(value) > MAX_SESSION_ID_CHARS:
        raise MalformedSessionId(
            "The session id in the header is not one of ours: letters, digits and inner hyphens, "
            f"at most {MAX_SESSION_ID_CHARS}. Send the session_id that the opening reply gave."
        )
    return value


def format_time(seconds: float) -> str:
    """Seconds since the epoch as ``yyyy-mm-ddThh:mm:ssZ`` in UTC, rounded down."""
    return datetime.fromtimestamp(math.floor(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def opened_headers(lifetime: Lifetime) -> dict[str, str]:
    value = _announce(lifetime)
    return {SESSION_ID: value, NEW_SESSION_ID: value}


def session_headers(lifetime: Lifetime | None) -> dict[str, str]:
    """The renewed lifetime; nothing for a reply outside any session."""
    return {} if lifetime is None else {SESSION_ID: _announce(lifetime)}


def closed_headers(session_id: str) -> dict[str, str]:
    return {CLOSED_SESSION_ID: session_id}


def error_headers(error: VlmError) -> dict[str, str]:
    """``Retry-After`` in whole seconds, at least 1, for errors that pass; for want of a key, what
    kind is asked for (RFC 9110, 11.6.1)."""
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if error.retry_after is None:
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after)))}


def sanitize(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that cannot smuggle another one in: only visible ASCII and inner spaces remain."""
    return {
        name: "".join(char for char in value if " " <= char <= "~").strip()
        for name, value in headers.items()
    }


def _announce(lifetime: Lifetime) -> str:
    return f"{lifetime.session_id}; Expires={format_time(lifetime.expires_at)}"
