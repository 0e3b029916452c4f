"""OpenAI's chat completion replies: whole bodies, stream chunks, errors and the list of models.

The official Python client's types parse all of it (tests/unit/protocol/test_openai_reply.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.dialects.native import NativeWriter
from vlm_sessions.protocol.jsonio import dump_json
from vlm_sessions.protocol.openai_schema import (
    AssistantMessage,
    CachedTokens,
    ChatCompletion,
    ChatCompletionChunk,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Model,
    ModelList,
    OpenAIErrorFields,
    OpenAIErrorReply,
)
from vlm_sessions.protocol.replies import Body
from vlm_sessions.protocol.schema import Answer, TextDelta, Usage
from vlm_sessions.protocol.sse import DONE, data_event

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    # OpenAI has no word for a cancelled answer, and its clients refuse words that they do not know.
    "cancelled": "stop",
}


@dataclass(frozen=True, slots=True)
class ChatWriter(NativeWriter):
    """Replies to one chat request; what is not a chat's is written as in our dialect.

    ``completion_id`` and ``created`` (seconds since the epoch) are the same in all chunks.
    """

    completion_id: str
    created: int
    model: str
    include_usage: bool = False

    def answer(self, answer: Answer) -> bytes:
        return _dump(
            ChatCompletion(
                id=self.completion_id,
                object="chat.completion",
                created=self.created,
                model=self.model,
                choices=(
                    Choice(
                        index=0,
                        message=AssistantMessage(
                            role="assistant", content=answer.text, refusal=None
                        ),
                        logprobs=None,
                        finish_reason=_FINISH_REASONS[answer.finish_reason],
                    ),
                ),
                usage=_usage(answer.usage),
            )
        )

    def error(self, error: VlmError) -> bytes:
        return openai_error(error)

    def stream_start(self) -> bytes:
        return self._event(Delta(role="assistant", content=""))

    def stream_delta(self, delta: TextDelta) -> bytes:
        return self._event(Delta(content=delta.text))

    def stream_answer(self, answer: Answer) -> bytes:
        end = self._event(Delta(), _FINISH_REASONS[answer.finish_reason])
        if self.include_usage:
            end += data_event(_fields(self._chunk((), usage=_usage(answer.usage))))
        return end + DONE

    def stream_error(self, error: VlmError) -> bytes:
        return data_event(_fields(_error_reply(error)))

    def _event(self, delta: Delta, finish_reason: FinishReason | None = None) -> bytes:
        choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish_reason)
        no_usage_yet = {"usage": None} if self.include_usage else {}
        return data_event(_fields(self._chunk((choice,), **no_usage_yet)))

    def _chunk(
        self, choices: tuple[ChunkChoice, ...], **usage: ChatUsage | None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.completion_id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **usage,
        )


def openai_error(error: VlmError) -> bytes:
    """OpenAI's error object, which holds our ``code`` and ``message`` too."""
    return _dump(_error_reply(error))


def openai_models(model: str, created: int) -> bytes:
    """The list of the one model served."""
    served = Model(id=model, object="model", created=created, owned_by="vlm-sessions")
    return _dump(ModelList(object="list", data=(served,)))


def _dump(body: Body) -> bytes:
    return dump_json(_fields(body))


def _fields(body: Body) -> dict[str, Any]:
    return body.model_dump(exclude_unset=True)


def _error_reply(error: VlmError) -> OpenAIErrorReply:
    return OpenAIErrorReply(
        error=OpenAIErrorFields(
            message=error.message, type=_error_type(error.status), param=None, code=error.code
        )
    )


def _error_type(
    status: int,
) -> Literal["invalid_request_error", "rate_limit_error", "server_error"]:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _usage(usage: Usage) -> ChatUsage:
    # OpenAI's has no such field; to say nothing of what the model was not given would be worse.
    dropped = {"dropped_turns": usage.dropped_turns} if usage.dropped_turns else {}
    return ChatUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=usage.cached_tokens),
        **dropped,
    )
