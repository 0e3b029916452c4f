"""Conversations with an engine of this process: what was asked, and when what came."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.gpu_model import FIRST_WORD
from bench.shapes import Shape
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Retention,
    Sampling,
    TokenOut,
    Turn,
)


@dataclass(slots=True)
class Conversation:
    """One picture, and what was said about it."""

    picture: int
    tokens: list[int]
    image: ImageSpan


@dataclass(slots=True)
class Asked:
    """A turn. Moments are of ``time.perf_counter``."""

    conversation: Conversation
    num_answer: int
    level: str
    """Where the conversation was when it was asked."""
    asked_at: float
    arrivals: list[float] = field(default_factory=list)
    done: bool = False

    @property
    def ttft(self) -> float:
        """Seconds."""
        return self.arrivals[0] - self.asked_at

    @property
    def tpot(self) -> float:
        """Seconds."""
        return (self.arrivals[-1] - self.arrivals[0]) / max(1, len(self.arrivals) - 1)


class Driver:
    """Asks, steps, and takes what comes."""

    def __init__(self, engine: Engine, shape: Shape, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self._shape = shape
        self._asked: dict[str, Asked] = {}
        self._num_turns = 0
        self._num_pictures = 0
        noise = np.random.default_rng(seed).random((3, shape.image_size, shape.image_size), "<f4")
        self._noise = noise

    @property
    def num_running(self) -> int:
        return len(self._asked)

    def conversation(self, picture: int | None = None) -> Conversation:
        """A new one, about a picture that none was about if no number is given."""
        if picture is None:
            self._num_pictures += 1
            picture = self._num_pictures
        length = self._shape.num_image_tokens
        return Conversation(picture, [0] * length, ImageSpan(f"{picture:064x}", 0, length))

    def ask(self, conversation: Conversation, num_words: int, num_answer: int) -> Asked:
        """Ask so many tokens; with ``num_answer`` 0 they are only computed."""
        words = self.random.choices(range(FIRST_WORD, 1000), k=num_words)
        level = self._level(conversation)
        conversation.tokens += words
        self._num_turns += 1
        turn = Turn(
            turn_id=str(self._num_turns),
            tokens=tuple(conversation.tokens),
            images=(conversation.image,),
            sampling=Sampling(max_new_tokens=num_answer, ignore_eos=True),
            retention=Retention(str(id(conversation)), time.time() + 3600),
        )
        asked = Asked(conversation, num_answer, level, time.perf_counter())
        self._asked[turn.turn_id] = asked
        self._take(self.engine.add(turn))
        return asked

    def step(self) -> None:
        self._take(self.engine.step())

    def finish(self, turns: Iterable[Asked]) -> None:
        """Step until all of them are over."""
        waiting = list(turns)
        while not all(turn.done for turn in waiting):
            self.step()

    def _level(self, conversation: Conversation) -> str:
        found = self.engine.locate(conversation.tokens, (conversation.image,))
        if found.kv_tokens >= self._shape.num_image_tokens:
            return "KV on the device"
        if found.kv_tokens + found.host_kv_tokens >= self._shape.num_image_tokens:
            return "KV on the host"
        if conversation.image.digest in (*found.features, *found.host_features):
            return "features"
        return "pixels" if conversation.image.digest in found.pixels else "nothing"

    def _take(self, events: Iterable[Event]) -> None:
        now = time.perf_counter()
        for event in events:
            match event:
                case PixelsNeeded():
                    picture = self._asked[event.turn_id].conversation.picture
                    self.engine.put_pixels(self._pixels(picture))
                case TokenOut():
                    asked = self._asked[event.turn_id]
                    asked.arrivals.append(now)
                    asked.conversation.tokens.append(event.token)
                case Failed():
                    raise RuntimeError(f"a turn failed: {event.code}: {event.message}")
                case Finished():
                    self._asked.pop(event.turn_id).done = True

    def _pixels(self, picture: int) -> PixelImage:
        noise = self._noise.copy()
        noise[0, 0, 0] = picture
        return PixelImage(f"{picture:064x}", noise.shape, noise.tobytes())
