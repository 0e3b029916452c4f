"""The engine alone: the same process and settings as under the service, driven directly."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vlm_sessions.config import Settings
from vlm_sessions.engine.interface import AsyncEngine
from vlm_sessions.engine.process import EngineProcess
from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.model.processor import make_processor
from vlm_sessions.processing import Processor


@dataclass(frozen=True, slots=True)
class EngineAlone:
    engine: AsyncEngine
    processor: Processor
    info: EngineInfo


@asynccontextmanager
async def running_engine(environ: Mapping[str, str]) -> AsyncIterator[EngineAlone]:
    """An engine process with the settings of ``environ`` (``VLM_`` variables, a model among them).

    Raises:
        EngineUnavailable: the model could not be loaded.
    """
    settings = Settings.from_env(environ)
    assert settings.model is not None, "the benchmark always names its model"
    # The command that build.build gives it.
    command = [
        *(sys.executable, "-m", "vlm_sessions.build", "engine"),
        *(settings.model, settings.model),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLM_")}
    engine = EngineProcess(command, env={**kept, **settings.to_env()})
    info = await engine.start()
    try:
        yield EngineAlone(engine, make_processor(settings.model), info)
    finally:
        await engine.close()
