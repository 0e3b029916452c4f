"""The client's half of an engine, the same wherever the engine runs.

One turn is one stream of events: pixels that the engine asks for are pulled and sent, a failure
becomes the matching error, and leaving the stream cancels the turn. Images get the names of the
turn's salt here (``salting.py``): behind this, nobody needs to know whose they are. Where commands
go and replies come from is for ``local.py`` and ``process.py`` to say.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import assert_never

import msgspec

from vlm_sessions.engine.interface import PixelSource
from vlm_sessions.engine.salting import salt_images, salt_turn, unsalt_location
from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Turn,
)
from vlm_sessions.engine.wire import (
    Cancel,
    Clear,
    Command,
    Events,
    Loaded,
    LoadFailed,
    Locate,
    Located,
    Ping,
    Pixels,
    Pong,
    Release,
    Reply,
    Stats,
    StatsReply,
    Submit,
)
from vlm_sessions.errors import (
    ContextOverflow,
    EngineLost,
    EngineUnavailable,
    Internal,
    VlmError,
)

_ERROR_OF_CODE: dict[str, type[VlmError]] = {
    error.code: error for error in (ContextOverflow, EngineLost, EngineUnavailable, Internal)
}
_STATS_TIMEOUT_SECONDS = 2.0
"""A scrape of /metrics gets the last known figures rather than wait for a long step."""

_Answer = Located | StatsReply | Pong


class StreamingEngine(ABC):
    """Base of every ``AsyncEngine`` that speaks the messages of ``wire.py``.

    Not thread-safe: all of it runs on one event loop.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._up_changed = asyncio.Condition()
        self._num_restarts = 0
        self._turns: dict[str, asyncio.Queue[Event | VlmError]] = {}
        """turn_id -> what its stream has not yet taken; bounded by the turn's own length."""
        self._asked: dict[int, asyncio.Future[_Answer]] = {}
        """ask_id -> who waits for the answer"""
        self._num_asked = 0
        self._last_stats = EngineStats()

    # --- what a subclass provides ---------------------------------------------------------------

    @abstractmethod
    async def start(self) -> EngineInfo: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def _send(self, command: Command) -> None:
        """Take a command to the engine without waiting. Called only while it is up."""

    # --- AsyncEngine ----------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._is_up

    async def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until turns can be computed.

        Raises:
            EngineUnavailable: they cannot after this time.
        """
        async with self._up_changed:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._up_changed.wait_for(lambda: self._is_up)
            except TimeoutError:
                raise self._unavailable() from None

    async def submit(self, turn: Turn, pixels: PixelSource) -> AsyncIterator[Event]:
        """Compute one turn; see ``AsyncEngine.submit``."""
        if not self._is_up:
            raise self._unavailable()
        if turn.turn_id in self._turns:
            raise Internal(f"Turn {turn.turn_id} is in flight already.")
        inbox: asyncio.Queue[Event | VlmError] = asyncio.Queue()
        self._turns[turn.turn_id] = inbox
        turn, pixels = salt_turn(turn, pixels)
        pulls: list[asyncio.Task[None]] = []
        is_over = False
        try:
            self._send(Submit(turn))
            while not is_over:
                event = await inbox.get()
                if isinstance(event, PixelsNeeded):
                    pulls.append(asyncio.create_task(self._pull(event.digest, pixels, inbox)))
                    continue
                if isinstance(event, VlmError):
                    raise event
                if isinstance(event, Failed):
                    is_over = True
                    raise _error_of(event)
                is_over = isinstance(event, Finished)
                yield event
        finally:
            del self._turns[turn.turn_id]
            for pull in pulls:
                pull.cancel()
            if not is_over and self._is_up:
                self._send(Cancel(turn.turn_id))

    async def cancel(self, turn_id: str) -> None:
        if self._is_up:
            self._send(Cancel(turn_id))

    async def release(self, key: str) -> None:
        if self._is_up:
            self._send(Release(key))

    async def clear(self) -> None:
        if self._is_up:
            self._send(Clear())

    async def locate(
        self, tokens: Sequence[int], images: Sequence[ImageSpan], *, salt: str = ""
    ) -> CacheLocation:
        question = Locate(self._next_ask(), tuple(tokens), salt_images(images, salt), salt)
        try:
            answer = await self._ask(question)
        except (EngineLost, EngineUnavailable):
            return CacheLocation(
                kv_tokens=0, host_kv_tokens=0, features=(), host_features=(), pixels=()
            )
        assert isinstance(answer, Located)
        return unsalt_location(answer.location, images, salt)

    async def stats(self) -> EngineStats:
        try:
            async with asyncio.timeout(_STATS_TIMEOUT_SECONDS):
                answer = await self._ask(Stats(self._next_ask()))
            assert isinstance(answer, StatsReply)
            self._last_stats = answer.stats
        except TimeoutError:
            pass  # a long step: the last figures still stand
        except (EngineLost, EngineUnavailable):
            self._last_stats = EngineStats()
        return msgspec.structs.replace(self._last_stats, restarts_total=self._num_restarts)

    # --- for subclasses -------------------------------------------------------------------------

    async def _set_up(self, is_up: bool) -> None:
        async with self._up_changed:
            self._is_up = is_up
            self._up_changed.notify_all()

    async def _ping(self) -> None:
        """Return once the engine answers between two steps.

        Raises:
            EngineUnavailable: it is down.
            EngineLost: it died before it answered.
        """
        await self._ask(Ping(self._next_ask()))

    def _receive(self, reply: Reply) -> None:
        """Hand a reply to whoever waits for it; late ones have nobody and are dropped."""
        match reply:
            case Events():
                for event in reply.events:
                    inbox = self._turns.get(event.turn_id)
                    if inbox is not None:
                        inbox.put_nowait(event)
            case Located() | StatsReply() | Pong():
                future = self._asked.get(reply.ask_id)
                if future is not None and not future.done():
                    future.set_result(reply)
            case Loaded() | LoadFailed():
                raise AssertionError("an engine loads once, before anything else")
            case _:
                assert_never(reply)

    def _fail_all(self, error: type[VlmError], message: str) -> None:
        """End all that is in flight with an error of its own each."""
        for inbox in self._turns.values():
            inbox.put_nowait(error(message))
        for future in self._asked.values():
            if not future.done():
                future.set_exception(error(message))

    def _unavailable(self) -> EngineUnavailable:
        return EngineUnavailable("The engine is starting or being replaced. Try again shortly.")

    # --- within ---------------------------------------------------------------------------------

    def _next_ask(self) -> int:
        self._num_asked += 1
        return self._num_asked

    async def _ask(self, command: Locate | Stats | Ping) -> _Answer:
        if not self._is_up:
            raise self._unavailable()
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asked[command.ask_id] = future
        try:
            self._send(command)
            return await future
        finally:
            del self._asked[command.ask_id]

    async def _pull(
        self, digest: str, pixels: PixelSource, inbox: asyncio.Queue[Event | VlmError]
    ) -> None:
        """Get the pixels of one image to the engine; a failure ends the turn that needed them."""
        try:
            image = await pixels(digest)
            _check_pixels(digest, image)
        except VlmError as exc:
            inbox.put_nowait(exc)
        except Exception as exc:  # noqa: BLE001 - the turn must end, whatever the source raised
            error = Internal("The pixels of an image could not be made.")
            error.__cause__ = exc
            inbox.put_nowait(error)
        else:
            if self._is_up:
                self._send(Pixels(image))


def _check_pixels(digest: str, image: PixelImage) -> None:
    """Keep a broken image from the device, where it would end the engine for everybody.

    Raises:
        ValueError: it is another image, or its data does not fill its shape.
    """
    if image.digest != digest:
        raise ValueError(f"asked for the pixels of {digest}, got those of {image.digest}")
    if len(image.data) != 4 * math.prod(image.shape):
        raise ValueError(f"{len(image.data)} bytes do not fill shape {image.shape} as float32")


def _error_of(failed: Failed) -> VlmError:
    return _ERROR_OF_CODE.get(failed.code, Internal)(failed.message)
