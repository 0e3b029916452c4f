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
