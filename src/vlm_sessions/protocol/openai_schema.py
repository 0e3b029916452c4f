"""OpenAI's chat completion objects, chunks, errors and list of models, as far as they are sent.

Source: OpenAI's API reference, "The chat completion object" and "… chunk object". Fields with a
default are only in a reply where they are set.
"""

from __future__ import annotations

from typing import Literal

from vlm_sessions.protocol.replies import Body

FinishReason = Literal["stop", "length"]


class CachedTokens(Body):
    cached_tokens: int


class ChatUsage(Body):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    dropped_turns: int = 0
    """Ours: OpenAI's has no word for turns that the model was not given."""


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(Body):
    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(Body):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: ChatUsage


class Delta(Body):
    """The first has a role, those in between content, the last nothing."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChunkChoice(Body):
    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Body):
    """A piece of an answer, as it comes; the usage, where it is asked for, in one of its own."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | None = None


class Model(Body):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Body):
    object: Literal["list"]
    data: tuple[Model, ...]


class OpenAIErrorFields(Body):
    """``code`` and ``message`` are those of our own dialect."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: None
    code: str


class OpenAIErrorReply(Body):
    error: OpenAIErrorFields
