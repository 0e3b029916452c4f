"""A child process that is started again when it ends by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.processes import kill_group, stop_child
from vlm_sessions.serve.tasks import background, first_of

Process = asyncio.subprocess.Process

_LAST_LINES_SECONDS = 1.0
"""Grandchildren may hold the pipe open after the child has ended."""
_MAX_LINE_BYTES = 8192


class Kept:
    """A process that runs while it is wanted.

    Args:
        name: for the console.
        start: starts it, with its output on a pipe.
        say: writes a line to the console.
        show: is given each line that it writes.
        stop_signal: asks it to end in order.
        stop_seconds: how long that may take; then it is killed.
        hurry: set when it is not to take that long.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Process]],
        *,
        say: Callable[[str], None],
        show: Callable[[str], None],
        stop_signal: signal.Signals,
        stop_seconds: float,
        hurry: asyncio.Event,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self._start = start
        self._say = say
        self._show = show
        self._stop_signal = stop_signal
        self._stop_seconds = stop_seconds
        self._hurry = hurry
        self._patience = patience or Patience()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._unwanted = asyncio.Event()
        self._process: Process | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.has_failed = asyncio.Event()
        """Set when it has once ended without being told to."""

    async def keep(self) -> None:
        """Have it running while it is wanted, until cancelled; then it is killed."""
        num_failures = 0
        while True:
            await self._wanted.wait()
            await first_of(
                asyncio.sleep(self._patience.before_start(num_failures)), self._unwanted.wait()
            )
            if not self._wanted.is_set():
                continue
            lived = await self._run_once()
            if self._wanted.is_set():
                self.has_failed.set()
                num_failures = self._patience.failures_after(num_failures, lived)
                self._say(f"{self.name} has ended; starting it again.")

    async def stop(self) -> None:
        """Want it no longer; returns when it has ended."""
        self._wanted.clear()
        self._unwanted.set()
        await self._idle.wait()

    def resume(self) -> None:
        """Want it again."""
        self._unwanted.clear()
        self._wanted.set()

    def send_signal(self, number: signal.Signals) -> None:
        """To the process, if it is running."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _run_once(self) -> float:
        """One life of it, in seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._idle.clear()
        try:
            self._process = process = await self._start()
            async with background(_read_lines(process, self._show)) as reading:
                await first_of(process.wait(), self._unwanted.wait())
                await stop_child(process, self._stop_signal, self._stop_seconds, self._hurry)
                await first_of(reading, limit=_LAST_LINES_SECONDS)
        finally:
            if self._process is not None:
                kill_group(self._process)
                self._process = None
            self._idle.set()
        return loop.time() - began


async def _read_lines(process: Process, show: Callable[[str], None]) -> None:
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(_MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            show(line.decode("utf-8", "replace"))
        if len(rest) > _MAX_LINE_BYTES:
            show(rest.decode("utf-8", "replace"))
            rest = b""
    if rest:
        show(rest.decode("utf-8", "replace"))
