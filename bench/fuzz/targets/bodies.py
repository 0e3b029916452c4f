"""JSON bodies: whole requests with parts exchanged, our words in any order, anything else."""

from __future__ import annotations

import copy
from typing import Any

from bench.fuzz.dice import Dice
from vlm_sessions.protocol.dialects.native import COMMANDS
from vlm_sessions.protocol.openai_request import ACCEPTED_AND_IGNORED, NEUTRAL_VALUES, ChatBody

SESSION = "ts-seq-0123456789abcdef0123456789abcdef"

_WORDS = (
    *("type", "requestType", "session_id", "prompt", "prompt_text", "path", "system", "turns"),
    *("images", "data", "content", "content_type", "role", "text", "image_url", "url", "name"),
    *ChatBody.model_fields,
    *sorted(ACCEPTED_AND_IGNORED),
    *sorted(NEUTRAL_VALUES),
)
_TAGS = (
    *(*COMMANDS, "start_session", "send_text_prompt", "NEW_SESSION", "CLOSE", "text", "image_url"),
    *("user", "assistant", "system", "developer", "chat"),
)
_IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
WHOLE: list[dict[str, Any]] = [
    {"type": "open_session", "images": ["aGk=", {"data": "aGk="}], "system": "Be brief."},
    {"type": "prompt", "prompt": "What?", "images": ["aGk="], "stop": ["x"], "seed": 7},
    {"type": "prompt", "prompt": "What?", "temperature": 0.7, "top_p": 0.9, "top_k": 5},
    {"type": "generate", "prompt": "What?", "max_new_tokens": 2, "system": None, "stream": True},
    {"type": "rewind_session", "turns": 1},
    *({"type": name} for name in ("cancel_prompt", "describe_session", "fork_session")),
    {"type": "close_session"},
    {"type": "start_session", "path": "data:image/png;base64,aGk="},
    {"type": "send_text_prompt", "prompt_text": "What?", "session_id": SESSION},
    {"type": "close_session", "session_id": SESSION},
    {"requestType": "NEW_SESSION"},
    {"requestType": "CLOSE"},
    {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 2},
    {
        "model": "any",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [_IMAGE_PART, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A circle.", "tool_calls": []},
            {"role": "user", "content": "Sure?", "name": "me"},
        ],
        "max_completion_tokens": 2,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 1,
    },
]
"""Requests that are understood, one of each kind."""


def json_body(dice: Dice) -> Any:
    """A value that JSON can hold; most are requests, or nearly."""
    kind = dice.randrange(10)
    if kind == 0:
        return dice.value()
    if kind == 1:
        return {dice.choice(_WORDS): _near_miss(dice, 3) for _ in range(dice.randrange(7))}
    body = copy.deepcopy(dice.choice(WHOLE))
    for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3))):
        _change(dice, body)
    return body


def _near_miss(dice: Dice, depth: int) -> Any:
    kind = dice.randrange(4 if depth else 2)
    if kind == 0:
        return dice.choice(_TAGS)
    if kind == 1:
        return dice.value(1)
    size = dice.randrange(4)
    if kind == 2:
        return [_near_miss(dice, depth - 1) for _ in range(size)]
    return {dice.choice(_WORDS): _near_miss(dice, depth - 1) for _ in range(size)}


def _change(dice: Dice, inner: Any) -> None:
    """A part of it, however deep, is exchanged, left out, put in or said twice."""
    while inner:
        key = dice.choice(list(inner)) if isinstance(inner, dict) else dice.randrange(len(inner))
        if isinstance(inner[key], dict | list) and inner[key] and dice.one_in(2):
            inner = inner[key]
            continue
        match dice.randrange(4):
            case 0:
                inner[key] = dice.value() if dice.one_in(2) else _near_miss(dice, 2)
            case 1:
                del inner[key]
            case 2 if isinstance(inner, dict):
                inner[dice.choice(_WORDS) if dice.one_in(2) else dice.text()] = dice.value()
            case _ if isinstance(inner, list):
                inner.insert(0, inner[key])
            case _:
                inner[dice.choice(_WORDS)] = inner[key]
        return
