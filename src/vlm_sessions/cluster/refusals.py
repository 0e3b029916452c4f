"""What the router itself answers, in the product's errors, written for Lua.

Lua names a refusal by its key; code, status and message have their one place here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from vlm_sessions import errors


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the router answers with.

    Args:
        error: gives code, status and ``Retry-After``.
        message: for people.
        status: where HAProxy has another than the error.
        allow: the methods that would do.
        challenge: the kind of credentials that are asked for.
    """

    error: type[errors.VlmError]
    message: str
    status: int | None = None
    allow: str | None = None
    challenge: str | None = None

    def body(self) -> str:
        """As JSON."""
        return json.dumps({"error": {"code": self.error.code, "message": self.message}})


BAD_REQUEST = Refusal(errors.BadRequest, "This is not a well-formed HTTP request.")
REQUEST_TIMEOUT = Refusal(
    errors.BadRequest, "The request did not arrive in time. Send it again.", status=408
)
REFUSALS: Mapping[str, Refusal] = {
    "not_found": Refusal(
        errors.NotFound,
        "No such path. There are /invocations, /v1/chat/completions, /v1/models, "
        "/endpoints/NAME/invocations, /endpoints/NAME/invocations-response-stream, "
        "/openapi.json, /ping and /metrics.",
    ),
    "use_get": Refusal(errors.MethodNotAllowed, "Use GET.", allow="GET, HEAD"),
    "use_post": Refusal(errors.MethodNotAllowed, "Use POST.", allow="POST"),
    "use_get_or_post": Refusal(
        errors.MethodNotAllowed, "Use GET or POST.", allow="GET, HEAD, POST"
    ),
    "malformed_session_id": Refusal(
        errors.MalformedSessionId,
        "The session id in the header is not one of ours: letters, digits and inner hyphens, at "
        "most 64, and once. Send the session_id that the opening reply gave.",
    ),
    "unauthorized": Refusal(
        errors.Unauthorized,
        "This service asks for an API key, and no valid one came with the request. Send it in the "
        "header Authorization, after the word Bearer.",
        challenge="Bearer",
    ),
    "session_not_found": Refusal(
        errors.SessionNotFound,
        "No replica knows this session: it was never opened here, or is forgotten. Open a new one.",
    ),
    "session_closed": Refusal(
        errors.SessionClosed, "The session was closed. Open a new one to go on."
    ),
    "session_lost": Refusal(
        errors.SessionLost, "The replica that holds this session is gone. Open a new session."
    ),
    "owner_unavailable": Refusal(
        errors.Unavailable, "The replica that holds this session is being restarted. Try again."
    ),
    "owner_unknown": Refusal(
        errors.Unavailable,
        "A replica that may hold this session does not answer, and no other knows it. Try again.",
    ),
    "no_replica": Refusal(errors.Unavailable, "No replica is ready. Try again."),
    "unreachable": Refusal(errors.Unavailable, "The replica cannot be reached. Try again."),
    "bad_gateway": Refusal(errors.Unavailable, "The replica broke off. Try again.", status=502),
    "gateway_timeout": Refusal(
        errors.DeadlineExceeded, "The replica did not answer in time. Try again."
    ),
}


def lua_module() -> str:
    """``refusals.lua``: name -> {status, code, message, retry_after, allow, challenge}."""
    rows = "".join(f"  {name} = {_lua_table(refusal)},\n" for name, refusal in REFUSALS.items())
    return f"return {{\n{rows}}}\n"


def _lua_table(refusal: Refusal) -> str:
    error = refusal.error
    fields: dict[str, str | int | float | None] = {
        "status": refusal.status or error.status,
        "code": error.code,
        "message": refusal.message,
        "retry_after": None
        if error.default_retry_after is None
        else int(error.default_retry_after),
        "allow": refusal.allow,
        "challenge": refusal.challenge,
    }
    # A JSON string of plain ASCII text is a Lua string too.
    known = (f"{key} = {json.dumps(value)}" for key, value in fields.items() if value is not None)
    return f"{{{', '.join(known)}}}"
