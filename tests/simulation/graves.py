"""What died in the middle of something, until it can be freed without a word from it.

A killed process runs no ``finally``; a coroutine that Python frees does. So what was running in a
loop that has ended is kept until its world has, and is freed with nobody listening.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from unittest import mock

from tests.simulation.loop import SimulatedLoop


class Graves:
    """Loops that have ended, and the tasks in them."""

    def __init__(self) -> None:
        self._buried: list[tuple[SimulatedLoop, set[asyncio.Task[object]]]] = []

    def bury(self, loop: SimulatedLoop) -> None:
        self._buried.append((loop, asyncio.all_tasks(loop)))

    def free(self) -> None:
        with (
            mock.patch.object(sys, "unraisablehook"),
            warnings.catch_warnings(action="ignore"),
        ):
            for loop, _ in self._buried:
                loop.set_exception_handler(lambda *_: None)
                loop.close()
            self._buried.clear()
            gc.collect()
