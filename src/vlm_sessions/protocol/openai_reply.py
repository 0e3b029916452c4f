"""OpenAI's chat completion replies: whole bodies, stream chunks, errors and the list of models.

Source: OpenAI's API reference, "The chat completion object" and "… chunk object". The official
Python client's types parse all of it (tests/unit/protocol/test_openai_reply.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.dialects.native import NativeWriter
from vlm_sessions.protocol.jsonio import dump_json
from vlm_sessions.protocol.schema import Answer, TextDelta, Usage
from vlm_sessions.protocol.sse import DONE, data_event

_FINISH_REASONS: Mapping[str, str] = {
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
        return dump_json(
            {
                **self._head("chat.completion"),
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": answer.text,
                            "refusal": None,
                        },
                        "logprobs": None,
                        "finish_reason": _FINISH_REASONS[answer.finish_reason],
                    }
                ],
                "usage": _usage(answer.usage),
            }
        )

    def error(self, error: VlmError) -> bytes:
        return openai_error(error)

    def stream_start(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def stream_delta(self, delta: TextDelta) -> bytes:
        return self._chunk({"content": delta.text}, None)

    def stream_answer(self, answer: Answer) -> bytes:
        end = self._chunk({}, _FINISH_REASONS[answer.finish_reason])
        if self.include_usage:
            end += data_event(
                {
                    **self._head("chat.completion.chunk"),
                    "choices": [],
                    "usage": _usage(answer.usage),
                }
            )
        return end + DONE

    def stream_error(self, error: VlmError) -> bytes:
        return data_event(_error_fields(error))

    def _chunk(self, delta: Mapping[str, str], finish_reason: str | None) -> bytes:
        chunk = {
            **self._head("chat.completion.chunk"),
            "choices": [
                {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            ],
        }
        if self.include_usage:
            chunk["usage"] = None
        return data_event(chunk)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def openai_error(error: VlmError) -> bytes:
    """OpenAI's error object, which holds our ``code`` and ``message`` too."""
    return dump_json(_error_fields(error))


def openai_models(model: str, created: int) -> bytes:
    """The list of the one model served."""
    return dump_json(
        {
            "object": "list",
            "data": [
                {"id": model, "object": "model", "created": created, "owned_by": "vlm-sessions"}
            ],
        }
    )


def _error_fields(error: VlmError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": _error_type(error.status),
            "param": None,
            "code": error.code,
        }
    }


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _usage(usage: Usage) -> dict[str, Any]:
    # OpenAI's has no such field; to say nothing of what the model was not given would be worse.
    dropped = {"dropped_turns": usage.dropped_turns} if usage.dropped_turns else {}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        **dropped,
    }
