"""The engine alone: the same conversations as through the stack, without edge, TorchServe, adapter,
session layer and client. What the stack costs is the difference."""

from __future__ import annotations

import hashlib
import io
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from PIL import Image

from bench.measure import Clock, TurnTimes, time_pieces, turn_times
from bench.workload import Lengths, Workload
from vlm_sessions.engine.interface import AsyncEngine
from vlm_sessions.engine.types import (
    CacheLocation,
    Event,
    ImageSpan,
    PixelImage,
    Prefilled,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.processing import ImageRef, Processor


@dataclass(frozen=True, slots=True)
class Said:
    """A turn: its times, and the conversation up to its end."""

    times: TurnTimes
    tokens: tuple[int, ...]
    images: tuple[ImageSpan, ...]


class DirectConversation:
    """A conversation about one picture, kept as tokens, as the session layer keeps it.

    As there, the picture is kept encoded, and decoded whenever the engine asks for pixels.
    """

    def __init__(self, engine: AsyncEngine, processor: Processor, picture: bytes) -> None:
        self._engine = engine
        self._processor = processor
        self._picture = picture
        with Image.open(io.BytesIO(picture)) as opened:
            size = opened.size
        digest = hashlib.sha256(picture).hexdigest()
        self._image = ImageRef(digest, processor.num_image_tokens(*size))
        self._tokens: tuple[int, ...] = ()
        self._spans: tuple[ImageSpan, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Of all that was said and shown so far."""
        return len(self._tokens)

    async def open(self) -> None:
        """Compute what is certain before the first question, as opening a session does."""
        opening = self._processor.encode_opening(None, [self._image])
        async for _ in self._submit(opening.tokens, opening.images, num_tokens=0):
            pass

    async def ask(
        self, question: str, num_tokens: int, clock: Clock = time.perf_counter
    ) -> TurnTimes:
        """One turn of ``num_tokens``, its times taken as a client's are."""
        said = await self.say(question, num_tokens, clock)
        self._tokens, self._spans = said.tokens, said.images
        return said.times

    async def say(self, question: str, num_tokens: int, clock: Clock = time.perf_counter) -> Said:
        """The same, and then as if nothing had been asked."""
        started = clock()
        first = not self._tokens
        segment = self._processor.encode_turn(
            first=first, system=None, text=question, images=[self._image] if first else []
        )
        asked, images = self._tokens + segment.tokens, self._spans or segment.images
        answer: list[int] = []
        computed: list[Prefilled] = []

        async def pieces() -> AsyncIterator[str]:
            async for event in self._submit(asked, images, num_tokens):
                if isinstance(event, TokenOut):
                    answer.append(event.token)
                    yield ""
                elif isinstance(event, Prefilled):
                    computed.append(event)

        arrivals, end = await time_pieces(pieces(), started, clock)
        (prefilled,) = computed
        times = turn_times(
            arrivals,
            end,
            num_tokens=len(answer),
            num_cached=prefilled.cached_tokens,
            num_prompt=prefilled.prompt_tokens,
        )
        return Said(times, asked + tuple(answer), images)

    async def locate(self) -> CacheLocation:
        """Where what was said so far is cached."""
        return await self._engine.locate(self._tokens, self._spans)

    def _submit(
        self, tokens: tuple[int, ...], images: tuple[ImageSpan, ...], num_tokens: int
    ) -> AsyncIterator[Event]:
        sampling = Sampling(max_new_tokens=num_tokens, ignore_eos=True)
        turn = Turn(uuid.uuid4().hex, tokens, images, sampling)
        return self._engine.submit(turn, self._give_pixels)

    async def _give_pixels(self, digest: str) -> PixelImage:
        with Image.open(io.BytesIO(self._picture)) as opened:
            return self._processor.pixels(opened.convert("RGB"), digest)


async def converse(
    engine: AsyncEngine, processor: Processor, workload: Workload, lengths: Lengths
) -> list[TurnTimes]:
    """One conversation; the first of its turns is the first of the list."""
    conversation = DirectConversation(engine, processor, workload.picture())
    await conversation.open()
    return [
        await conversation.ask(
            workload.question(lengths.num_question_words), lengths.num_answer_tokens
        )
        for _ in range(lengths.num_turns)
    ]
