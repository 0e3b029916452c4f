"""The composition root: settings in, a service that can be started out. Decides nothing else.

Also the engine's child process: ``python -m vlm_sessions.build engine MODEL NAME FD``, started by
``EngineProcess`` with the settings in its environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.process import EngineProcess, serve_engine
from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.logs import capture_standard_logs, configure_logs
from vlm_sessions.metrics import Metrics
from vlm_sessions.processing import Processor
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.service import SessionService

BUILT_IN_NAME = "vlm-sessions/shapes"
"""What the packaged model is called where a model's name is asked for."""
_MIB = 1 << 20


class App:
    """The whole service. Belongs to one event loop; nothing happens before ``start``.

    Args:
        model: a checkpoint directory or a hub id.
        name: what the model is called where its name is asked for.
    """

    def __init__(self, settings: Settings, model: str, name: str) -> None:
        self._settings = settings
        self._model = model
        self._name = name
        self._service: SessionService | None = None
        self._endpoint: Endpoint | None = None

    async def start(self) -> None:
        """Take up the journal and load the model; returns once prompts can be answered.

        Raises:
            ConfigError: the state directory or the model cannot be used.
            EngineUnavailable: the model could not be loaded.
        """
        engine = _EarlyEngine(
            [sys.executable, "-m", "vlm_sessions.build", "engine", self._model, self._name],
            env=os.environ | self._settings.to_env(),
        )
        engine.begin()
        try:
            processor = await asyncio.to_thread(_make_processor, self._model, self._name)
        except BaseException:
            await engine.close()
            raise
        self._service = service = SessionService(self._settings, engine, processor)
        await service.start()
        self._endpoint = Endpoint(
            service,
            self._settings,
            Metrics(),
            model=self._name,
            engine_stats=service.engine_stats,
            num_open_sessions=lambda: service.num_open_sessions,
        )

    async def handle(self, request: HttpRequest) -> HttpReply:
        """Answer one request; never raises."""
        assert self._endpoint is not None, "started"
        return await self._endpoint.handle(request)

    async def cancel_request(self, request_id: str) -> bool:
        """End the prompt of a request whose client has left; whether there was one."""
        return self._service is not None and await self._service.cancel_request(request_id)

    async def close(self) -> None:
        """End everything; sessions stay in the journal."""
        if self._service is not None:
            await self._service.close()


def build(settings: Settings, built_in: Path) -> App:
    """Put the parts together.

    Args:
        built_in: directory of the packaged checkpoint, for when the settings name no model.
    """
    _configure_logs(settings)
    if settings.model is None:
        return App(settings, str(built_in), BUILT_IN_NAME)
    return App(settings, settings.model, settings.model)


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


def _make_processor(model: str, name: str) -> Processor:
    from vlm_sessions.model.processor import make_processor  # noqa: PLC0415 - seconds of imports

    return make_processor(model, name=name)


def engine_limits(settings: Settings) -> EngineLimits:
    """The part of the settings that bounds an engine."""
    return EngineLimits(
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        feature_bytes=settings.feature_cache_mb * _MIB,
        pixel_bytes=settings.pixel_cache_mb * _MIB,
    )


def run_engine(settings: Settings, model: str, name: str, fd: int) -> None:
    """Be the engine's child process, until its parent is gone."""
    from vlm_sessions.model.runner import make_runner  # noqa: PLC0415 - this process only

    _configure_logs(settings)
    serve_engine(lambda: make_runner(settings, model, name=name), fd, engine_limits(settings))


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["engine", model, name, fd]:
            run_engine(Settings.from_env(os.environ), model, name, int(fd))
        case _:
            raise SystemExit("usage: python -m vlm_sessions.build engine MODEL NAME FD")


def _configure_logs(settings: Settings) -> None:
    configure_logs(settings.log_level, log_content=settings.log_content)
    capture_standard_logs()


if __name__ == "__main__":
    main(sys.argv[1:])
