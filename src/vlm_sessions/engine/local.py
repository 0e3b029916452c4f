"""An engine in a thread of this process: for tests, and to measure the engine without the rest.

It is not replaced when it fails; ``start`` it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.interface import Runner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.loop import EngineLoop
from vlm_sessions.engine.streams import StreamingEngine
from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.engine.wire import Command
from vlm_sessions.errors import EngineLost, EngineUnavailable

_log = logging.getLogger(__name__)


class LocalEngine(StreamingEngine):
    """``AsyncEngine`` over a thread.

    Args:
        make_runner: loads the model; called in the engine's thread by each ``start``.
        monotonic: seconds, for durations.
        wall: seconds since the epoch, for retentions.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        limits: EngineLimits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._make_runner = make_runner
        self._limits = limits
        self._monotonic = monotonic
        self._wall = wall
        self._loop: EngineLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()

    async def start(self) -> EngineInfo:
        if self._thread is not None and self._thread.is_alive():
            raise EngineUnavailable("The engine was started already.")
        event_loop = asyncio.get_running_loop()

        def call(function: Callable[[], object]) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens
                event_loop.call_soon_threadsafe(function)

        loaded: asyncio.Future[EngineInfo] = event_loop.create_future()
        self._ended = asyncio.Event()
        self._loop = EngineLoop(lambda reply: call(lambda: self._receive(reply)))
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, loaded, call), name="engine", daemon=True
        )
        self._thread.start()
        info = await loaded
        await self._set_up(True)
        return info

    async def close(self) -> None:
        was_up = self._is_up
        await self._set_up(False)
        if was_up:
            self._fail_all(EngineUnavailable, "The engine was closed.")
        if self._loop is not None:
            self._loop.stop()
        if self._thread is not None:
            await self._ended.wait()
            self._thread.join()
        self._loop = self._thread = None

    def _send(self, command: Command) -> None:
        assert self._loop is not None, "commands are sent while the engine is up"
        self._loop.put(command)

    # --- in the engine's thread -----------------------------------------------------------------

    def _run(
        self,
        loop: EngineLoop,
        loaded: asyncio.Future[EngineInfo],
        call: Callable[[Callable[[], object]], None],
    ) -> None:
        """Load and work; ``call`` has the event loop's thread call something."""

        def settle(outcome: EngineInfo | EngineUnavailable) -> None:
            if loaded.done():  # the starter gave up waiting
                return
            if isinstance(outcome, EngineUnavailable):
                loaded.set_exception(outcome)
            else:
                loaded.set_result(outcome)

        try:
            engine = Engine(
                self._make_runner(), self._limits, monotonic=self._monotonic, wall=self._wall
            )
        except Exception as exc:  # noqa: BLE001 - the one boundary: the starter gets it, chained
            error = EngineUnavailable(f"The model could not be loaded: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            call(lambda: settle(error))
            call(self._ended.set)
            return
        call(lambda: settle(engine.info))
        try:
            loop.run(engine)
        except Exception:  # noqa: BLE001 - logged in full, and the clients are told
            _log.exception("the engine's step failed")
            call(self._lose)
        call(self._ended.set)

    def _lose(self) -> None:
        self._is_up = False
        self._fail_all(
            EngineLost, "The engine failed while it worked on this prompt. Send it again."
        )
