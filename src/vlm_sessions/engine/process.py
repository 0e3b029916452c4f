"""An engine in a process of its own, seen from its parent: started, watched, replaced.

                 ┌─ spawn ─▶ loading ─▶ up ─┐ died, hung or lost
    start() ─────┤                          ├──▶ all in flight raise EngineLost at once
                 └──────── back-off ◀───────┘

One child is ``spawned.py`` from here and ``child.py`` from within; what goes between them is
``wire.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from vlm_sessions.engine.child import serve_engine
from vlm_sessions.engine.spawned import SpawnedEngine
from vlm_sessions.engine.streams import StreamingEngine
from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.engine.wire import Command
from vlm_sessions.errors import EngineLost, EngineUnavailable

__all__ = ["EngineProcess", "serve_engine"]

_log = logging.getLogger(__name__)

_STABLE_SECONDS = 60.0
"""A child that was up for this long starts the back-off anew."""

Spawn = Callable[[Sequence[str], Mapping[str, str] | None], Awaitable[SpawnedEngine]]


class EngineProcess(StreamingEngine):
    """``AsyncEngine`` over a child process, which is replaced whenever it is lost.

    ``start``, ``close`` and all else belong to one event loop; the thread that runs it must live as
    long as the engine (the kernel kills the child when the thread that started it ends).

    Args:
        command: runs ``serve_engine``; the number of its socket's descriptor is appended as the
            last argument.
        env: the child's environment; ``None``: this process's.
        load_timeout_seconds: from spawning until the model is loaded.
        hang_timeout_seconds: a child that ends no step within this time is killed and replaced.
        heartbeat_seconds: how often it is asked whether it still ends steps.
        first_backoff_seconds: before the second restart in a row; the first one is immediate.
        max_backoff_seconds: the back-off doubles up to here.
        spawn: starts a child; given ``command`` and ``env``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        load_timeout_seconds: float = 1800.0,
        hang_timeout_seconds: float = 60.0,
        heartbeat_seconds: float = 5.0,
        first_backoff_seconds: float = 0.5,
        max_backoff_seconds: float = 30.0,
        spawn: Spawn = SpawnedEngine.spawn,
    ) -> None:
        super().__init__()
        self._command = tuple(command)
        self._env = None if env is None else dict(env)
        self._load_timeout = load_timeout_seconds
        self._hang_timeout = hang_timeout_seconds
        self._heartbeat = heartbeat_seconds
        self._first_backoff = first_backoff_seconds
        self._max_backoff = max_backoff_seconds
        self._spawn = spawn
        self._child: SpawnedEngine | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, loading, up or ending; ``None`` between two of them."""
        return None if self._child is None else self._child.pid

    async def start(self) -> EngineInfo:
        if self._keeper is not None:
            raise EngineUnavailable("The engine was started already.")
        child, info = await self._bring_up()
        self._keeper = asyncio.create_task(self._keep(child), name="engine-keeper")
        return info

    async def close(self) -> None:
        await self._set_up(False)
        self._fail_all(EngineUnavailable, "The engine was closed.")
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        await self._bring_down()

    def _send(self, command: Command) -> None:
        assert self._child is not None, "commands are sent while the engine is up"
        self._child.send(command)

    # --- keeping a child alive ------------------------------------------------------------------

    async def _keep(self, child: SpawnedEngine) -> None:
        """Watch the child; replace it, and its replacements, until cancelled."""
        num_failures = 0
        now = asyncio.get_running_loop().time
        while True:
            up_since = now()
            reason = await self._watch(child)
            await self._set_up(False)
            self._fail_all(
                EngineLost, "The engine died while it worked on this prompt. Send it again."
            )
            _log.error("engine process %s lost: %s", child.pid, reason)
            await self._bring_down()
            if now() - up_since > _STABLE_SECONDS:
                num_failures = 0
            child = await self._replace(num_failures)
            num_failures += 1

    async def _replace(self, num_failures: int) -> SpawnedEngine:
        while True:
            if num_failures:
                backoff = self._first_backoff * 2.0 ** min(num_failures - 1, 30)
                await asyncio.sleep(min(backoff, self._max_backoff))
            self._num_restarts += 1
            num_failures += 1
            try:
                child, _ = await self._bring_up()
            except EngineUnavailable as exc:
                _log.error("engine could not be restarted: %s", exc.message)
            else:
                return child

    async def _bring_up(self) -> tuple[SpawnedEngine, EngineInfo]:
        """Start a child and wait until its model is loaded.

        Raises:
            EngineUnavailable: it could not be started, died, took too long, or says why not.
        """
        try:
            child = self._child = await self._spawn(self._command, self._env)
        except OSError as exc:
            raise EngineUnavailable(f"The engine process could not be started: {exc}") from exc
        try:
            async with asyncio.timeout(self._load_timeout):
                info = await child.loaded()
        except BaseException as exc:
            await self._bring_down()
            if isinstance(exc, TimeoutError):
                raise EngineUnavailable(
                    f"The model was not loaded within {self._load_timeout:.0f} s."
                ) from exc
            raise
        await self._set_up(True)
        return child, info

    async def _bring_down(self) -> None:
        if self._child is not None:
            await self._child.end()  # when cancelled here, ``close`` still knows whom to end
            self._child = None

    async def _watch(self, child: SpawnedEngine) -> str:
        """Hand out replies until the child is lost; returns why."""
        receiving = asyncio.create_task(self._receive_all(child))
        checking = asyncio.create_task(self._check_heart())
        tasks = {receiving, checking}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive_all(self, child: SpawnedEngine) -> str:
        while True:
            try:
                reply = await child.receive()
            except msgspec.DecodeError as exc:
                return f"it sent what is not a reply: {exc}"
            if reply is None:
                return "it closed its socket"
            self._receive(reply)

    async def _check_heart(self) -> str:
        while True:
            await asyncio.sleep(self._heartbeat)
            try:
                async with asyncio.timeout(self._hang_timeout):
                    await self._ping()
            except TimeoutError:
                return f"it ended no step within {self._hang_timeout:g} s"
