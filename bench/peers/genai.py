"""OpenVINO GenAI: its continuous batching with prefix caching, on an export by optimum-intel.

It takes text, not tokens, and has no tokenizer of whole words. The export's tokenizer has the same
vocabulary and finds the same words by their longest pieces, and a token's text is its word: what
comes out of its own tokenizer is counted.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]
from PIL import Image

from bench.peers.child import Peer, serve
from bench.peers.protocol import Answer, Load, Loaded, Question, Times

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@dataclass(slots=True)
class _Conversation:
    encoded: bytes
    tokens: tuple[int, ...] = ()


class GenAI(Peer):
    """One conversation is a chat, which keeps its encoded picture. The library has one chat at a
    time: several at once are requests with all their text and their picture each."""

    def load(self, load: Load) -> Loaded:
        folder = _exported(Path(load.model))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = load.kv_cache_mb // 1024
        scheduler.max_num_batched_tokens = 1024  # as ours: every prompt here fits in one step
        precision = PRECISIONS[load.dtype]
        properties = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the process is pinned already
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,  # by default 8 bits, which nobody else here has
        }
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", properties, {}, properties
        )
        raw = json.loads((folder / "tokenizer.json").read_text())
        self._words = {number: word for word, number in raw["model"]["vocab"].items()}
        self._special = {token["id"] for token in raw["added_tokens"]}
        self._tokenizer: Any = self._pipeline.get_tokenizer()
        self._image_token = load.image_token
        self._conversations: dict[str, _Conversation] = {}
        self._numbers = itertools.count()
        self._chat: str | None = None
        return Loaded({name: metadata.version(name) for name in ("openvino-genai", "openvino")})

    def open(self, conversation: str, picture: bytes) -> None:
        self._conversations[conversation] = _Conversation(picture)

    def ask(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        if len(questions) == 1:
            return [self._ask_in_chat(questions[0], num_tokens)]
        return self._ask_at_once(questions, num_tokens)

    def forget(self, conversation: str) -> None:
        del self._conversations[conversation]
        if self._chat == conversation:
            self._pipeline.finish_chat()
            self._chat = None

    def _ask_in_chat(self, question: Question, num_tokens: int) -> Answer:
        times = Times()
        conversation = self._conversations[question.conversation]
        images = []
        if self._chat is None:
            self._pipeline.start_chat()
            self._chat = question.conversation
            images = [self._decode(conversation)]
        conversation.tokens += question.tokens
        # The chat writes the turn's frame itself.
        said = self._text([token for token in question.tokens if token not in self._special])
        tokens: list[int] = []
        streamer = _Streamer(times, tokens)
        self._pipeline.generate([said], [images], [self._config(num_tokens, chat=True)], streamer)
        return self._answer(conversation, tokens, times)

    def _ask_at_once(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        all_times = [Times() for _ in questions]
        conversations = [self._conversations[question.conversation] for question in questions]
        handles = []
        for conversation, question in zip(conversations, questions, strict=True):
            conversation.tokens += question.tokens
            handles.append(
                self._pipeline.add_request(
                    next(self._numbers),
                    self._text(self._with_one_placeholder(conversation.tokens)),
                    [self._decode(conversation)],
                    self._config(num_tokens, chat=False),
                )
            )
        answers: list[list[int]] = [[] for _ in questions]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for handle, answer, times in zip(handles, answers, all_times, strict=True):
                while handle.can_read():
                    (output,) = handle.read().values()
                    for token in output.generated_ids:
                        times.stamp()
                        answer.append(token)
        return [self._answer(*each) for each in zip(conversations, answers, all_times, strict=True)]

    def _answer(self, conversation: _Conversation, tokens: list[int], times: Times) -> Answer:
        """``num_prompt`` by the pipeline's own tokenizer, its one placeholder expanded."""
        prompt = self._text(self._with_one_placeholder(conversation.tokens))
        encoded = self._tokenizer.encode(prompt, add_special_tokens=False).input_ids
        num_features = conversation.tokens.count(self._image_token)
        conversation.tokens += tuple(tokens)
        return times.answer(
            tuple(tokens), num_prompt=int(encoded.shape[1]) - 1 + num_features, num_cached=None
        )

    def _config(self, num_tokens: int, *, chat: bool) -> Any:
        return openvino_genai.GenerationConfig(
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            ignore_eos=True,
            do_sample=False,
            apply_chat_template=chat,
        )

    def _text(self, tokens: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in tokens)

    def _with_one_placeholder(self, tokens: tuple[int, ...]) -> list[int]:
        start, count = tokens.index(self._image_token), tokens.count(self._image_token)
        return [*tokens[: start + 1], *tokens[start + count :]]

    def _decode(self, conversation: _Conversation) -> Any:
        """uint8 ``[1, height, width, 3]``"""
        with Image.open(io.BytesIO(conversation.encoded)) as opened:
            return openvino.Tensor(np.asarray(opened.convert("RGB"))[None])


class _Streamer(openvino_genai.StreamerBase):  # type: ignore[misc]
    """Takes tokens and their times."""

    def __init__(self, times: Times, tokens: list[int]) -> None:
        super().__init__()
        self._times = times
        self._tokens = tokens

    def write(self, token: int | list[int]) -> Any:
        for each in [token] if isinstance(token, int) else token:
            self._times.stamp()
            self._tokens.append(each)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


def _exported(checkpoint: Path) -> Path:
    """The checkpoint as OpenVINO reads it. Made in a process of its own, so that nothing of torch
    is in the one that is measured."""
    folder = checkpoint.with_name(f"{checkpoint.name}-openvino")
    if not folder.is_dir():
        command = [sys.executable, "-m", "bench.peers.export", str(checkpoint), str(folder)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return folder


if __name__ == "__main__":
    serve(GenAI())
