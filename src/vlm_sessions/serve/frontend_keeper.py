"""Keeps TorchServe running: starts it, lets requests in, replaces it, drains it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

from vlm_sessions.serve import frontend
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.processes import Watch, kill_group
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.serve.stopping import Stopping
from vlm_sessions.serve.tasks import first_of, first_result
from vlm_sessions.serve.watchdog import HTTP_OK, wait_for_trouble

Process = asyncio.subprocess.Process

READY_POLL_SECONDS = 0.2
DRAINED_POLL_SECONDS = 0.02
KILLED_SECONDS = 5.0
"""For the kernel to take a killed worker away, with the memory that it held."""


class FrontendKeeper:
    """One TorchServe with its worker, at all times ready or on its way to be.

    Args:
        start: starts TorchServe.
        run_dir: where its sockets are, and the door that the edge goes through.
        log: what to read when it does not start.
        say: writes a line to the console.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        run_dir: RunDir,
        *,
        log: str,
        say: Callable[[str], None],
        stopping: Stopping,
        patience: Patience,
    ) -> None:
        self._start = start
        self._run_dir = run_dir
        self._log = log
        self._say = say
        self._stopping = stopping
        self._patience = patience
        self._worker: Watch | None = None
        self._serves = False
        self.ready = asyncio.Event()
        """Set for good when it serves for the first time."""

    def watch_worker(self, pid: int) -> None:
        """The worker has connected its log: see to it that its death is noticed at once."""
        # A worker that is gone already is noticed by asking the management API.
        with contextlib.suppress(ProcessLookupError):
            self._worker = Watch(pid)

    async def keep(self) -> None:
        """Have TorchServe running until cancelled; once stopping is asked for, without a new start.

        Raises:
            CannotServe: the first start failed, or too many in a row did.
        """
        num_failures = 0
        while True:
            await asyncio.sleep(self._patience.before_start(num_failures))
            async with self._running() as process:
                if await self._wait_ready(process):
                    num_failures = 0
                    trouble = await self._serve(process)
                else:
                    num_failures += 1
                    trouble = "has died on its way up"
                if self._stopping.asked.is_set():
                    # Java may have last bytes to pass on. Whoever stops us ends this.
                    await asyncio.get_running_loop().create_future()
                if not self.ready.is_set():
                    raise CannotServe(f"The service did not start. See {self._log}.")
                if num_failures >= self._patience.max_failed_starts:
                    raise CannotServe(
                        f"TorchServe could not be started {num_failures} times in a row. "
                        f"See {self._log}."
                    )
                self._say(f"TorchServe or its worker {trouble}; starting it again.")

    async def drain(self) -> None:
        """Have the worker finish what runs and close, and wait until it has, or is gone.

        Returns at once when there is none that serves. Afterwards it refuses what still comes. One
        that does not finish in time is killed, and TorchServe then tells its clients.
        """
        worker, stopping = self._worker, self._stopping
        if worker is None or not self._serves:
            return
        finished = asyncio.create_task(self._wait_finished(worker))
        worker.send_signal(signal.SIGTERM)
        await first_of(finished, stopping.hurried.wait(), limit=stopping.seconds_for_worker())
        if not finished.done() and stopping.hurried.is_set():
            worker.send_signal(signal.SIGTERM)
            await first_of(finished, limit=stopping.seconds_for_worker())
        self._run_dir.close_door()
        if not finished.done():
            finished.cancel()
            worker.send_signal(signal.SIGKILL)

    async def _wait_finished(self, worker: Watch) -> None:
        while not worker.gone.is_set() and not self._run_dir.drained.exists():
            await first_of(worker.gone.wait(), limit=DRAINED_POLL_SECONDS)

    async def _serve(self, process: Process) -> str:
        """Let requests in until the front end or its worker is dead or hangs; what happened."""
        self._run_dir.open_door()
        self._serves = True
        self._say("TorchServe is ready.")
        self.ready.set()
        try:
            return await first_result(
                self._wait_death(process),
                wait_for_trouble(
                    lambda seconds: frontend.ping(self._run_dir, seconds), self._patience
                ),
            )
        finally:
            self._serves = False
            self._run_dir.close_door()

    async def _wait_death(self, process: Process) -> str:
        if self._worker is None:
            await process.wait()
        else:
            await first_of(process.wait(), self._worker.gone.wait())
        return "has died"

    async def _wait_ready(self, process: Process) -> bool:
        """Wait until a prompt would be answered; ``False``: it died on the way."""
        while process.returncode is None:
            if self._worker is not None and self._worker.gone.is_set():
                return False
            worker = await frontend.worker_state(self._run_dir)
            if worker.pid and not _alive(worker.pid):
                return False
            if worker.ready:
                status = await frontend.ping(self._run_dir, frontend.ASK_SECONDS)
                if status == HTTP_OK:
                    return True
            await asyncio.sleep(READY_POLL_SECONDS)
        return False

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Process]:
        """One run of TorchServe. Whatever is left of it in the end is killed, with its worker and
        engines: all that they hold and have told anyone is in the journal.
        """
        process = await self._start()
        try:
            yield process
        finally:
            kill_group(process)
            await process.wait()
            if self._worker is not None:
                await first_of(self._worker.gone.wait(), limit=KILLED_SECONDS)
                self._worker.close()
                self._worker = None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
