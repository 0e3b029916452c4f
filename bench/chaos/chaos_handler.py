"""What TorchServe loads when a service is to be broken: the product's handler over other parts."""

from __future__ import annotations

from pathlib import Path

from bench.chaos import composition
from handlers.llava_handler import LlavaHandler
from vlm_sessions.build import App
from vlm_sessions.config import Settings


class ChaosHandler(LlavaHandler):
    """The one class of this module."""

    def compose(self, settings: Settings, checkpoint: Path) -> App:
        return composition.compose(settings, checkpoint)
