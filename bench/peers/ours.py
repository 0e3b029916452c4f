"""Our engine, driven in process as its own loop drives it, and nothing of the service around it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata

from PIL import Image

from bench.peers.child import Peer, serve
from bench.peers.protocol import Answer, Load, Loaded, Question, Times
from vlm_sessions.build import engine_limits
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import (
    Event,
    Failed,
    ImageSpan,
    PixelsNeeded,
    Prefilled,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import make_runner


@dataclass(slots=True)
class _Conversation:
    picture: bytes
    digest: str
    tokens: tuple[int, ...] = ()


@dataclass(slots=True)
class _Turn:
    times: Times
    num_prompt: int
    num_cached: int = 0
    answer: list[int] = field(default_factory=list)


class OurEngine(Peer):
    def load(self, load: Load) -> Loaded:
        settings = Settings.model_validate(
            {"device": "cpu", "dtype": load.dtype, "threads": 1, "kv_cache_mb": load.kv_cache_mb}
        )
        self._engine = Engine(make_runner(settings, load.model), engine_limits(settings))
        self._processor = make_processor(load.model)
        self._image_token = load.image_token
        self._conversations: dict[str, _Conversation] = {}
        self._num_turns = 0
        return Loaded({name: metadata.version(name) for name in ("vlm-sessions", "torch")})

    def open(self, conversation: str, picture: bytes) -> None:
        digest = hashlib.sha256(picture).hexdigest()
        self._conversations[conversation] = _Conversation(picture, digest)

    def ask(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        all_times = [Times() for _ in questions]
        turns: dict[str, _Turn] = {}
        for question, times in zip(questions, all_times, strict=True):
            turn = self._turn(question, num_tokens)
            turns[turn.turn_id] = _Turn(times, len(turn.tokens))
            self._take(self._engine.add(turn), turns)
        while any(len(turn.answer) < num_tokens for turn in turns.values()):
            self._take(self._engine.step(), turns)
        answers = []
        for question, turn_ in zip(questions, turns.values(), strict=True):
            self._conversations[question.conversation].tokens += tuple(turn_.answer)
            answers.append(
                turn_.times.answer(
                    tuple(turn_.answer), num_prompt=turn_.num_prompt, num_cached=turn_.num_cached
                )
            )
        return answers

    def forget(self, conversation: str) -> None:
        del self._conversations[conversation]

    def _turn(self, question: Question, num_tokens: int) -> Turn:
        conversation = self._conversations[question.conversation]
        conversation.tokens += question.tokens
        self._num_turns += 1
        start = conversation.tokens.index(self._image_token)
        length = conversation.tokens.count(self._image_token)
        return Turn(
            turn_id=str(self._num_turns),
            tokens=conversation.tokens,
            images=(ImageSpan(conversation.digest, start, length),),
            sampling=Sampling(max_new_tokens=num_tokens, ignore_eos=True),
        )

    def _take(self, events: list[Event], turns: dict[str, _Turn]) -> None:
        for event in events:
            match event:
                case PixelsNeeded():
                    self._put_pixels(event.digest)
                case Prefilled():
                    turns[event.turn_id].num_cached = event.cached_tokens
                case TokenOut():
                    turns[event.turn_id].times.stamp()
                    turns[event.turn_id].answer.append(event.token)
                case Failed():
                    raise RuntimeError(event.message)

    def _put_pixels(self, digest: str) -> None:
        picture = next(c.picture for c in self._conversations.values() if c.digest == digest)
        with Image.open(io.BytesIO(picture)) as opened:
            self._engine.put_pixels(self._processor.pixels(opened.convert("RGB"), digest))


if __name__ == "__main__":
    serve(OurEngine())
