"""Plain transformers, ``generate`` and nothing else, with one thing or another kept in between.

``everything``  nothing is kept: JPEG, resizing, vision tower and the whole conversation each time
``pixels``      the pixel tensor, as the AWS sample keeps it in its session
``kv``          the KV of the conversation
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, DynamicCache, LlavaForConditionalGeneration
from transformers.generation import BaseStreamer

from bench.peers.child import Peer, serve
from bench.peers.protocol import Answer, Load, Loaded, Question, Times

KEPT = ("everything", "pixels", "kv")


@dataclass(slots=True)
class _Conversation:
    picture: bytes
    tokens: tuple[int, ...] = ()
    pixels: torch.Tensor | None = None
    """float32 ``[1, 3, side, side]``"""


class _Stamping(BaseStreamer):  # type: ignore[misc] # transformers is untyped to us
    """Takes the time of each step; the first call is the prompt."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._begun = False

    def put(self, value: torch.Tensor) -> None:
        if self._begun:
            self._times.stamp()
        self._begun = True

    def end(self) -> None:
        pass


class Transformers(Peer):
    """Conversations that are asked at once are one batch, always the same ones and of one length:
    then a batch needs no padding, and its KV can be kept."""

    def __init__(self, kept: str) -> None:
        if kept not in KEPT:
            raise ValueError(f"{kept!r} is none of {KEPT}")
        self._kept = kept
        self._conversations: dict[str, _Conversation] = {}
        self._caches: dict[tuple[str, ...], Any] = {}

    def load(self, load: Load) -> Loaded:
        torch.set_num_threads(1)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[load.dtype]
        self._model: Any = LlavaForConditionalGeneration.from_pretrained(load.model, dtype=dtype)
        self._model.eval()
        self._model.generation_config.eos_token_id = None  # answers have a fixed length
        self._images = AutoImageProcessor.from_pretrained(load.model, backend="pil")
        self._dtype = dtype
        return Loaded({name: metadata.version(name) for name in ("transformers", "torch")})

    def open(self, conversation: str, picture: bytes) -> None:
        self._conversations[conversation] = _Conversation(picture)

    def ask(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        times = Times()
        names = tuple(question.conversation for question in questions)
        asked = [self._conversations[name] for name in names]
        for conversation, question in zip(asked, questions, strict=True):
            conversation.tokens += question.tokens
        tokens = torch.tensor([conversation.tokens for conversation in asked])
        inputs: dict[str, Any] = {}
        num_cached = 0
        if self._kept == "kv":
            inputs["past_key_values"] = self._caches.setdefault(names, DynamicCache())
            num_cached = int(inputs["past_key_values"].get_seq_length())
        if not num_cached:
            inputs["pixel_values"] = torch.cat([self._pixels(each) for each in asked])
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=num_tokens,
                do_sample=False,
                streamer=_Stamping(times),
                **inputs,
            )
        answers = []
        for conversation, row in zip(asked, output[:, tokens.shape[1] :].tolist(), strict=True):
            conversation.tokens += tuple(row)
            answers.append(
                times.answer(tuple(row), num_prompt=tokens.shape[1], num_cached=num_cached)
            )
        return answers

    def forget(self, conversation: str) -> None:
        del self._conversations[conversation]
        self._caches = {n: cache for n, cache in self._caches.items() if conversation not in n}

    def _pixels(self, conversation: _Conversation) -> torch.Tensor:
        if conversation.pixels is not None:
            return conversation.pixels
        with Image.open(io.BytesIO(conversation.picture)) as opened:
            values = self._images(opened.convert("RGB"), return_tensors="pt")["pixel_values"]
        pixels: torch.Tensor = values.to(self._dtype)
        if self._kept == "pixels":
            conversation.pixels = pixels
        return pixels


if __name__ == "__main__":
    serve(Transformers(sys.argv[1]))
