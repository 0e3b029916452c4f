"""The composition root: settings in, a service that can be started out. Decides nothing else.

Also the engine's child process: ``python -m vlm_sessions.build engine MODEL NAME FD``, started by
``EngineProcess`` with the settings in its environment.

Most of a start is spent importing. So the engine's process, which needs the longest, is started
first and imports nothing of the service, and the worker imports the service meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_sessions.config import Settings
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.interface import Runner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.process import EngineProcess, serve_engine
from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.logs import MEMORY_EVENT, capture_standard_logs, configure_logs, get_logger

if TYPE_CHECKING:
    from vlm_sessions.endpoint import Endpoint
    from vlm_sessions.processing import Processor
    from vlm_sessions.protocol.http import HttpReply, HttpRequest
    from vlm_sessions.service import SessionService

BUILT_IN_NAME = "vlm-sessions/shapes"
"""What the packaged model is called where a model's name is asked for."""
ENGINE_COMMAND = (sys.executable, "-m", "vlm_sessions.build", "engine")
"""Starts an engine's process, once model, name and descriptor are appended."""
_MIB = 1 << 20


class App:
    """The whole service. Belongs to one event loop; nothing happens before ``start``.

    Args:
        model: a checkpoint directory or a hub id.
        name: what the model is called where its name is asked for.
        engine_command: starts the engine's process; see ``ENGINE_COMMAND``.
        clock: seconds since the epoch; lifetimes are counted by it.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        name: str,
        *,
        engine_command: Sequence[str] = ENGINE_COMMAND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._model = model
        self._name = name
        self._engine_command = engine_command
        self._clock = clock
        self._service: SessionService | None = None
        self._endpoint: Endpoint | None = None

    async def start(self) -> None:
        """Take up the journal and load the model; returns once prompts can be answered.

        Raises:
            ConfigError: the state directory or the model cannot be used.
            EngineUnavailable: the model could not be loaded.
        """
        engine = _EarlyEngine(
            [*self._engine_command, self._model, self._name],
            env=os.environ | self._settings.to_env(),
        )
        engine.begin()
        try:
            processor = await asyncio.to_thread(
                _make_processor, self._settings, self._model, self._name
            )
        except BaseException:
            await engine.close()
            raise
        self._service = _make_service(self._settings, engine, processor, self._clock)
        await self._service.start()
        self._endpoint = _make_endpoint(self._settings, self._service, self._name)

    async def handle(self, request: HttpRequest) -> HttpReply:
        """Answer one request; never raises."""
        assert self._endpoint is not None, "started"
        return await self._endpoint.handle(request)

    async def cancel_request(self, request_id: str) -> bool:
        """End the prompt of a request whose client has left; whether there was one."""
        return self._service is not None and await self._service.cancel_request(request_id)

    def announce_drain(self) -> None:
        """Let /ping fail; everything is answered as before."""
        if self._service is not None:
            self._service.announce_drain()

    def begin_drain(self) -> None:
        """Refuse new work; what runs or waits goes on."""
        if self._service is not None:
            self._service.begin_drain()

    async def close(self) -> None:
        """End everything; sessions stay in the journal."""
        if self._service is not None:
            await self._service.close()


def build(
    settings: Settings,
    built_in: Path,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    clock: Callable[[], float] = time.time,
) -> App:
    """Put the parts together.

    Args:
        built_in: directory of the packaged checkpoint, for when the settings name no model.
        engine_command, clock: see ``App``.
    """
    _configure_logs(settings)
    _ignore_warnings_about_pictures()
    model, name = settings.model or str(built_in), settings.model or BUILT_IN_NAME
    return App(settings, model, name, engine_command=engine_command, clock=clock)


class _EarlyEngine(EngineProcess):
    """Loads its model while this process still imports what the processor needs: both take
    seconds, and whoever waits for a restarted service waits for both.
    """

    def begin(self) -> None:
        self._starting = asyncio.create_task(super().start())

    async def start(self) -> EngineInfo:
        return await self._starting

    async def close(self) -> None:
        self._starting.cancel()
        await asyncio.wait([self._starting])
        await super().close()


def _make_processor(settings: Settings, model: str, name: str) -> Processor:
    with _no_garbage_sought():
        from vlm_sessions.model.processor import make_processor  # noqa: PLC0415 - takes seconds

        return make_processor(model, name=name, one_tile=settings.image_tiles == "one")


def _make_service(
    settings: Settings, engine: EngineProcess, processor: Processor, clock: Callable[[], float]
) -> SessionService:
    from vlm_sessions.service import SessionService  # noqa: PLC0415 - while the engine loads

    return SessionService(settings, engine, processor, clock=clock)


def _make_endpoint(settings: Settings, service: SessionService, name: str) -> Endpoint:
    from vlm_sessions.endpoint import Endpoint  # noqa: PLC0415 - while the engine loads
    from vlm_sessions.metrics import Metrics  # noqa: PLC0415

    return Endpoint(
        service,
        settings,
        Metrics(),
        model=name,
        engine_stats=service.engine_stats,
        num_open_sessions=lambda: service.num_open_sessions,
    )


def engine_limits(settings: Settings) -> EngineLimits:
    """The part of the settings that bounds an engine."""
    return EngineLimits(
        max_batch_tokens=settings.max_batch_tokens,
        prefill_share=settings.prefill_share,
        max_running=settings.max_running,
        eviction=Eviction(settings.eviction),
        feature_bytes=settings.feature_cache_mb * _MIB,
        pixel_bytes=settings.pixel_cache_mb * _MIB,
    )


def run_engine(
    settings: Settings,
    model: str,
    name: str,
    fd: int,
    *,
    around: Callable[[Runner], Runner] = lambda runner: runner,
    wall: Callable[[], float] = time.time,
) -> None:
    """Be the engine's child process, until its parent is gone.

    Args:
        around: what stands between the engine and its runner.
        wall: seconds since the epoch; retentions end by it.
    """
    with _no_garbage_sought():
        from vlm_sessions.model.runner import make_runner  # noqa: PLC0415 - this process only

    _configure_logs(settings)

    def load() -> Runner:
        runner = make_runner(settings, model, name=name)
        get_logger("engine").info(MEMORY_EVENT, **runner.memory.fields())
        return around(runner)

    serve_engine(load, fd, engine_limits(settings), wall=wall)


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["engine", model, name, fd]:
            run_engine(Settings.from_env(os.environ), model, name, int(fd))
        case _:
            raise SystemExit("usage: python -m vlm_sessions.build engine MODEL NAME FD")


@contextmanager
def _no_garbage_sought() -> Iterator[None]:
    """For imports: looking for garbage among a million objects that stay takes a sixth of them.

    Nor is it sought among them ever after.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _ignore_warnings_about_pictures() -> None:
    """Pillow warns of what is odd in a client's file, in words with numbers from it: Python would
    write each to standard error, past the log, and remember each for ever.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _configure_logs(settings: Settings) -> None:
    configure_logs(settings.log_level, log_content=settings.log_content)
    capture_standard_logs()


if __name__ == "__main__":
    main(sys.argv[1:])
