"""An engine that says what a test tells it to, when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from tests.support.fake_processor import encode
from vlm_sessions.engine.interface import PixelSource
from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    Finished,
    FinishReason,
    ImageSpan,
    Prefilled,
    TokenOut,
    Turn,
)
from vlm_sessions.errors import EngineUnavailable

ScriptedAnswer = str | Sequence[int] | Exception


class ScriptedEngine:
    """``AsyncEngine``. Answers come from ``answers`` in order, then "yes" for ever.

    An answer is a text, the tokens themselves, or an error to be raised after one token. Set
    ``gate`` to a cleared event to hold every answer after its first token; ``reached`` tells that
    one is held there.
    """

    def __init__(self, *answers: ScriptedAnswer) -> None:
        self.answers = list(answers)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.turns: list[Turn] = []
        self.prefills: list[Turn] = []
        self.released: list[str] = []
        self.located: list[str] = []
        """Salts that were asked for."""
        self.cancelled: list[str] = []
        self.num_in_flight = 0
        self.max_in_flight = 0
        self.asks_for_pixels = True
        self.max_context = 100_000
        self._up = asyncio.Event()
        self.held = asyncio.Semaphore(0)
        self._may_prefill = asyncio.Event()
        self._may_prefill.set()

    @property
    def ready(self) -> bool:
        return self._up.is_set()

    def go_up(self) -> None:
        self._up.set()

    def go_down(self) -> None:
        self._up.clear()

    def hold_prefills(self) -> None:
        """Compute no prompt until they may go; ``held`` is released for each."""
        self._may_prefill.clear()

    def let_prefills_go(self) -> None:
        self._may_prefill.set()

    async def start(self) -> EngineInfo:
        self.go_up()
        return EngineInfo("scripted", "none", "none", 1, 1, self.max_context, 1, 0.0)

    async def wait_ready(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._up.wait()
        except TimeoutError:
            raise EngineUnavailable("The engine is down.") from None

    async def submit(self, turn: Turn, pixels: PixelSource) -> AsyncIterator[Event]:
        if not self.ready:
            raise EngineUnavailable("The engine is down.")
        self.num_in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.num_in_flight)
        over = False
        try:
            if self.asks_for_pixels:
                for span in turn.images:
                    await pixels(span.digest)
            if not self._may_prefill.is_set():
                self.held.release()
                await self._may_prefill.wait()
            if turn.sampling.max_new_tokens == 0:
                self.prefills.append(turn)
                yield Prefilled(turn.turn_id, len(turn.tokens), 0, 0, 0.0)
                yield Finished(turn.turn_id, FinishReason.LENGTH)
                over = True
                return
            self.turns.append(turn)
            answer = self.answers.pop(0) if self.answers else "yes"
            yield Prefilled(turn.turn_id, len(turn.tokens), 7, 0, 0.0)
            if isinstance(answer, Exception):
                yield TokenOut(turn.turn_id, encode("x")[0])
                raise answer
            tokens = encode(answer) if isinstance(answer, str) else tuple(answer)
            limit = turn.sampling.max_new_tokens
            for number, token in enumerate(tokens[:limit]):
                if number == 1 and not self.gate.is_set():
                    self.reached.set()
                    await self.gate.wait()
                yield TokenOut(turn.turn_id, token)
            reason = FinishReason.STOP if len(tokens) <= limit else FinishReason.LENGTH
            yield Finished(turn.turn_id, reason)
            over = True
        finally:
            self.num_in_flight -= 1
            if not over:
                self.cancelled.append(turn.turn_id)

    async def cancel(self, turn_id: str) -> None:
        self.cancelled.append(turn_id)

    async def release(self, key: str) -> None:
        self.released.append(key)

    async def locate(
        self, tokens: Sequence[int], images: Sequence[ImageSpan], *, salt: str = ""
    ) -> CacheLocation:
        self.located.append(salt)
        return CacheLocation(len(tokens), 0, tuple(i.digest for i in images), (), ())

    async def stats(self) -> EngineStats:
        return EngineStats()

    async def clear(self) -> None:
        pass

    async def close(self) -> None:
        self.go_down()
