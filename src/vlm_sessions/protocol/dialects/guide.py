"""The dialect of AWS's developer guide, DJL/LMI and vLLM's containers.

Only opening and closing have words of their own, ``requestType``; prompts in between are the
model's own bodies, here OpenAI's chat. Replies are those of our dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_sessions.errors import InvalidField, UnknownType
from vlm_sessions.protocol.dialects.base import Call
from vlm_sessions.protocol.dialects.native import NativeWriter, require_fitting_session
from vlm_sessions.protocol.jsonio import show_name
from vlm_sessions.protocol.schema import CloseSession, Command, OpenSession

COMMANDS: Mapping[str, type[OpenSession | CloseSession]] = {
    "NEW_SESSION": OpenSession,
    "CLOSE": CloseSession,
}


def read_guide(fields: Mapping[str, Any], session_id: str | None) -> Call:
    """A body with ``requestType``.

    Raises:
        UnknownType: neither NEW_SESSION nor CLOSE.
        InvalidField: other fields beside it.
        BadRequest: a session is named where none may be, or the reverse.
    """
    kind = fields["requestType"]
    if not isinstance(kind, str) or kind not in COMMANDS:
        raise UnknownType(
            f'requestType: "{show_name(kind)}" is not known; send NEW_SESSION or CLOSE.'
        )
    others = [show_name(name) for name in fields if name != "requestType"]
    if others:
        raise InvalidField(
            f"{', '.join(others[:3])}: not allowed beside requestType; to open a session with "
            'images send {"type":"open_session","images":[…]}.'
        )
    command: Command = COMMANDS[kind]()
    require_fitting_session(command, session_id)
    return Call(command, session_id, NativeWriter())
