"""OpenAI's chat completion requests, read into ``Chat``.

Fields fall into four groups: those that we act on; those that change nothing here and are accepted;
those that ask for what we do not do, accepted only at the value that asks for nothing; and unknown
ones, refused. ``null`` always counts as absent, as OpenAI's own clients send it.
Source: OpenAI's API reference, "Create chat completion"; ``top_k`` and ``ignore_eos`` are vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from vlm_sessions.errors import InvalidField
from vlm_sessions.protocol.jsonio import show_name, validate
from vlm_sessions.protocol.schema import COUNT_LIMIT, MAX_ITEMS, Chat, ChatMessage

ACCEPTED_AND_IGNORED = frozenset(
    {
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields for things that we do not do, with the values under which nothing is asked for."""

ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}

IGNORED_IN_MESSAGES = frozenset({"name"})
EMPTY_VALUES: tuple[Any, ...] = ([], "")
"""Of other fields of messages: clients send an assistant's back as they received it."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted; there is nothing to obfuscate."""


class ChatBody(_Body):
    """The fields that we act on. ``messages`` are read one by one, for their messages' sake."""

    messages: Annotated[list[dict[str, Any]], FailFast(), Field(min_length=1, max_length=MAX_ITEMS)]
    max_tokens: int | None = Field(None, ge=1, lt=COUNT_LIMIT)
    max_completion_tokens: int | None = Field(None, ge=1, lt=COUNT_LIMIT)
    temperature: float = Field(0.0, ge=0.0, le=5.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=-1, lt=COUNT_LIMIT)
    """-1, as vLLM's clients write it, and 0: no limit."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | list[str] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False


class TextPart(_Body):
    type: Literal["text"]
    text: str


class ImageUrl(_Body):
    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None
    """Accepted; the model sees every image at its own one resolution."""


class ImagePart(_Body):
    type: Literal["image_url"]
    image_url: ImageUrl


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat, and how its client wants the stream's end."""

    chat: Chat
    include_usage: bool


def read_chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """OpenAI's body as a ``Chat``: images first in each message, text parts joined by line breaks.

    Raises:
        InvalidField: a field is missing, unknown, unsupported, of the wrong type or out of range.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    _refuse_unsupported(given)
    ours = {
        name: value
        for name, value in given.items()
        if name not in ACCEPTED_AND_IGNORED and name not in NEUTRAL_VALUES
    }
    body = validate(ChatBody, ours, "chat")
    _check_num_parts(body.messages)
    messages = tuple(
        _read_message(message, f"messages[{index}]") for index, message in enumerate(body.messages)
    )
    if messages[-1].role != "user":
        raise InvalidField("messages: the last one must be the user's, for it is to be answered.")
    chat = validate(
        Chat,
        {
            "messages": messages,
            "max_new_tokens": _max_new_tokens(body),
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": max(body.top_k, 0),
            "seed": body.seed,
            "stop": [body.stop] if isinstance(body.stop, str) else body.stop,
            "ignore_eos": body.ignore_eos,
            "stream": body.stream,
        },
        "chat",
    )
    options = body.stream_options
    return ChatRequest(chat, include_usage=options is not None and options.include_usage)


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        neutral = NEUTRAL_VALUES.get(name)
        if neutral is not None and not any(_same(value, allowed) for allowed in neutral):
            raise InvalidField(f"chat.{name}: not supported here; leave it out.")


def _same(value: object, allowed: object) -> bool:
    # In Python True == 1; in JSON they are different things.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _check_num_parts(messages: Sequence[Mapping[str, Any]]) -> None:
    contents = (message.get("content") for message in messages)
    num_parts = sum(len(content) for content in contents if isinstance(content, list))
    if num_parts > MAX_ITEMS:
        raise InvalidField(
            f"messages: have {num_parts} parts together, the limit is {MAX_ITEMS}. Join the texts."
        )


def _max_new_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidField(
            "chat.max_tokens: differs from max_completion_tokens; send one of the two."
        )
    return new if new is not None else old


def _read_message(fields: Mapping[str, Any], place: str) -> ChatMessage:
    given = {name: value for name, value in fields.items() if value is not None}
    role = _read_role(given, place)
    for name, value in given.items():
        known = name in ("role", "content") or name in IGNORED_IN_MESSAGES
        if not known and value not in EMPTY_VALUES:
            raise InvalidField(f"{place}.{show_name(name)}: not supported; leave it out.")
    texts, images = _read_content(given.get("content"), place)
    if images and role != "user":
        raise InvalidField(f"{place}.content: only a user's message may hold images.")
    if role == "user" and not images and not any(texts):
        raise InvalidField(f"{place}.content: is required; send a text or a list of parts.")
    return ChatMessage(role=role, text="\n".join(texts), images=tuple(images))


def _read_role(message: Mapping[str, Any], place: str) -> Literal["system", "user", "assistant"]:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidField(f"{place}.role: must be system, developer, user or assistant.")
    return ROLES[role]


def _read_content(content: object, place: str) -> tuple[list[str], list[str]]:
    """Texts and image URLs of a message, each in their order."""
    if content is None:
        return [], []
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        raise InvalidField(f"{place}.content: must be a string or a list of parts.")
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        part_place = f"{place}.content[{index}]"
        match part:
            case {"type": "text"}:
                texts.append(validate(TextPart, part, part_place).text)
            case {"type": "image_url"}:
                images.append(validate(ImagePart, part, part_place).image_url.url)
            case _:
                raise InvalidField(f"{part_place}: must be a text or an image_url part.")
    return texts, images
