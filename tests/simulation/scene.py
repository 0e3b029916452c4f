"""What all parts of a world share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.simulation.clocks import WallClock
from tests.simulation.pictures import Picture
from tests.simulation.requests import Request
from tests.simulation.runner import EngineShape
from tests.simulation.trace import Trace
from vlm_sessions.config import Settings
from vlm_sessions.service import SessionService


@dataclass
class Scene:
    """The same over all lives of the service."""

    random: Random
    shape: EngineShape
    settings: Settings
    wall: WallClock
    trace: Trace
    requests: dict[int, Request] = field(default_factory=dict)
    """Those that are open, by number."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    """digest -> all that clients have shown"""


@dataclass
class Connection:
    """A way to the service, for as long as it lives."""

    service: SessionService
    directory: Path
    """Of its journal."""
    loop: asyncio.AbstractEventLoop


def draw_settings(random: Random, directory: Path) -> Settings:
    """Limits so low that requests run into them all the time."""
    return Settings(
        state_dir=directory,
        session_idle_seconds=random.choice([20, 60]),
        session_max_seconds=random.choice([60, 300]),
        tombstone_seconds=random.choice([0, 30]),
        max_sessions=random.choice([3, 8]),
        max_queued_per_session=random.choice([0, 1, 4]),
        max_queued=random.choice([4, 20, 20]),
        max_images_per_session=random.choice([2, 6]),
        prefill_on_open=random.random() < 0.7,
        context_overflow=random.choice(["error", "drop_oldest"]),
        default_max_new_tokens=4,
        prompt_timeout_seconds=random.choice([5, 5, 55]),
        stream_timeout_seconds=random.choice([15, 470]),
    )
