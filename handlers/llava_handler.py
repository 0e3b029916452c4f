"""What TorchServe loads. It must define exactly one class; everything else is in the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ts.protocol.otf_message_handler import create_predict_response
from ts.service import Service

from vlm_sessions.build import App, build
from vlm_sessions.config import Settings
from vlm_sessions.torchserve import Worker


class LlavaHandler:
    """One of it lives in TorchServe's one worker, and answers every request."""

    def initialize(self, ctx: Any) -> None:
        """Start the service; returns once it can answer a prompt."""
        checkpoint = Path(ctx.system_properties["model_dir"]) / "checkpoint"
        self._worker = Worker(create_predict_response, os.environ)
        self._worker.adopt(ctx, Service)
        self._worker.start(lambda settings: self.compose(settings, checkpoint))

    def compose(self, settings: Settings, checkpoint: Path) -> App:
        """The service; ``checkpoint`` is the built-in model. For tests to put together anew."""
        return build(settings, checkpoint)

    async def handle(self, data: list[Mapping[str, Any]], ctx: Any) -> list[str]:
        """Answer the request in ``data``. Never raises."""
        return await self._worker.handle(data, ctx)
