"""Server-sent events, as the HTML standard defines them (section 9.2, "Server-sent events").

Only the bytes of events; which events there are is each dialect's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_sessions.protocol.jsonio import dump_json

CONTENT_TYPE = "text/event-stream; charset=utf-8"


def named_event(name: str, data: Mapping[str, Any]) -> bytes:
    """``event: name`` with one line of JSON as its data."""
    return b"event: " + name.encode("ascii") + b"\n" + data_event(data)


def data_event(data: Mapping[str, Any]) -> bytes:
    """An event without a name. JSON of ours has no line breaks, so one ``data:`` line holds it."""
    return b"data: " + dump_json(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"
"""How OpenAI ends a stream."""
