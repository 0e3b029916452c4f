"""What every fault is, and what it leaves behind to be judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bench.chaos.client import Manners
from bench.chaos.stack import Stack
from bench.chaos.weather import BROKEN

ENGINE_SECONDS = 5.0
"""What the product promises: an engine is back this long after its death, beyond its load."""
RESTART_SECONDS = 30.0
"""The same of TorchServe and its worker."""
EDGE_SECONDS = 2.0
"""The same of HAProxy."""
ORPHAN_SECONDS = 5.0
"""The same of everything below a killed supervisor: gone by then."""
HOUR = 3600.0
"""For so long closed sessions are remembered; open ones live for two without use."""

NOTHING: frozenset[str] = frozenset()
ENGINE_CODES = frozenset({"engine_lost", "engine_unavailable"})
"""What is told while an engine is replaced."""
DISK_CODES = frozenset({"insufficient_storage"})
GONE_CODES = frozenset({BROKEN, "unavailable"})
"""What is met while a process between client and worker, or the worker, is replaced."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may touch.

    Attributes:
        holds: seconds that what is held up stays so; faults choose up to it.
        has_small_disk: whether the state directory can be filled.
    """

    stack: Stack
    manners: Manners
    rng: Random
    holds: float
    has_small_disk: bool

    def some_seconds(self) -> float:
        return self.rng.uniform(0.5, 1.0) * self.holds


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a fault ended.

    Attributes:
        seconds: from the blow, or from its end where it lasts, until the service served.
        load_seconds: how much of that a model's load took, which no promise covers.
        note: how it was done, where there is more than one way.
    """

    seconds: float
    load_seconds: float = 0.0
    note: str = ""

    @property
    def judged_seconds(self) -> float:
        return self.seconds - self.load_seconds


async def held(scene: Scene, undo: Callable[[], object]) -> Recovery:
    """Leave what was begun as it is for a while, undo it, and wait until the service serves.

    Raises:
        NotRecovered: it does not.
    """
    try:
        await asyncio.sleep(scene.some_seconds())
    finally:
        undo()
    undone = time.time()
    return Recovery(await scene.stack.wait_serving() - undone)


class Fault(Protocol):
    """One way to break a service."""

    @property
    def name(self) -> str: ...

    @property
    def allowed(self) -> frozenset[str]:
        """How requests that meet it may end, beside well."""
        ...

    @property
    def cost(self) -> float:
        """Seconds until the service serves again, about: for planning."""
        ...

    @property
    def lasts(self) -> bool:
        """Whether it is held up for a while before that."""
        ...

    @property
    def limit(self) -> float | None:
        """Of ``Recovery.judged_seconds``, as the product promises."""
        ...

    async def strike(self, scene: Scene) -> Recovery:
        """Do it, undo it, and wait until the service serves.

        Raises:
            NotRecovered: it does not.
        """
        ...
