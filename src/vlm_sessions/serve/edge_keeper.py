"""Keeps HAProxy running, and answering, from the moment that there is something to serve."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.processes import stop_child
from vlm_sessions.serve.stopping import LAST_WORDS_SECONDS, Stopping
from vlm_sessions.serve.tasks import first_of, first_result
from vlm_sessions.serve.watchdog import wait_for_trouble

Process = asyncio.subprocess.Process


class EdgeKeeper:
    """One HAProxy, replaced when it dies or hangs.

    Args:
        start: starts HAProxy.
        wait_listening: whether the public port takes connections, at last.
        ping: asks HAProxy itself once, waiting at most so many seconds; ``None``: no answer.
        log: what to read when it does not start.
        say: writes a line to the console.
        announce: called once, when the public port is open for the first time.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        wait_listening: Callable[[], Awaitable[bool]],
        ping: Callable[[float], Awaitable[int | None]],
        *,
        log: str,
        say: Callable[[str], None],
        announce: Callable[[], None],
        stopping: Stopping,
        patience: Patience,
    ) -> None:
        self._start = start
        self._wait_listening = wait_listening
        self._ping = ping
        self._log = log
        self._say = say
        self._announce = announce
        self._stopping = stopping
        self._patience = patience
        self._process: Process | None = None
        self._drains = False

    async def keep(self, wanted: asyncio.Event) -> None:
        """Have HAProxy running from when it is wanted until cancelled.

        Raises:
            CannotServe: the first start failed, or too many in a row did.
        """
        await wanted.wait()
        loop = asyncio.get_running_loop()
        num_failures = 0
        is_first = True
        while True:
            await asyncio.sleep(self._patience.before_start(num_failures))
            async with self._running() as process:
                began = loop.time()
                trouble = "has died"
                if await self._wait_listening() and process.returncode is None:
                    if is_first:
                        self._announce()
                    is_first = False
                    trouble = await self._serve(process)
                if self._drains:  # whoever stops us ends this
                    await loop.create_future()
                if is_first:
                    raise CannotServe(f"HAProxy did not start. See {self._log}.")
                num_failures = self._patience.failures_after(num_failures, loop.time() - began)
                if num_failures >= self._patience.max_failed_starts:
                    raise CannotServe(
                        f"HAProxy has failed {num_failures} times in a row, each time within "
                        f"{self._patience.short_life:g} s. See {self._log}."
                    )
                self._say(f"HAProxy {trouble}; starting it again.")
                if process.returncode is None:  # it hangs, and would not hear a softer word
                    process.kill()

    async def _serve(self, process: Process) -> str:
        """Wait until it is dead or hangs; what happened."""

        async def death() -> str:
            await process.wait()
            return "has died"

        return await first_result(death(), wait_for_trouble(self._ping, self._patience))

    async def drain(self) -> None:
        """Take no new connections and let what is on its way to clients arrive, for a while.

        After that whoever still waits does so in vain. To be told so, TorchServe is to go first.
        """
        self._drains = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)
            limit = self._stopping.seconds_for_edge()
            await first_of(self._process.wait(), self._hurry().wait(), limit=limit)

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Process]:
        """One run of HAProxy. Ended softly: what is on its way to a client may arrive."""
        process = self._process = await self._start()
        try:
            yield process
        finally:
            limit = LAST_WORDS_SECONDS if self._drains else self._stopping.seconds_for_edge()
            await stop_child(process, signal.SIGUSR1, limit, self._hurry())

    def _hurry(self) -> asyncio.Event:
        """A second signal cuts a wait short, unless it came before and has done so."""
        hurried = self._stopping.hurried
        return asyncio.Event() if hurried.is_set() else hurried
