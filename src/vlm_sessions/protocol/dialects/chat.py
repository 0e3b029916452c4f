"""OpenAI's chat as a dialect: in a session when the header names one, otherwise on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_sessions.protocol.dialects.base import Call
from vlm_sessions.protocol.openai_reply import ChatWriter
from vlm_sessions.protocol.openai_request import read_chat_request


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """Reads chats; knows what replies name: the served model, and the time (injected)."""

    model: str
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""

    def read(self, fields: Mapping[str, Any], session_id: str | None, request_id: str) -> Call:
        """OpenAI's body as a call.

        Raises:
            InvalidField: a field is missing, unknown, unsupported or out of range.
        """
        request = read_chat_request(fields)
        writer = ChatWriter(
            completion_id=f"chatcmpl-{request_id}",
            created=int(self.clock()),
            model=self.model,
            include_usage=request.include_usage,
        )
        return Call(request.chat, session_id, writer)
