"""The parent of all processes: starts them in order, replaces those that die, stops them in order.

start:   TorchServe → its worker READY → our /ping through it 200 → the edge → the ready line
stop:    the edge takes no more and lets replies finish → TorchServe, whose worker closes
a death: the edge answers 503 while TorchServe as a whole is started again; sessions come back
         from the journal
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, frontend
from vlm_sessions.serve.address import reachable_url
from vlm_sessions.serve.console import Console
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.greeting import ready_line
from vlm_sessions.serve.processes import Watch, kill_group, start_child, stop_child
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.serve.tasks import background, first_of

Process = asyncio.subprocess.Process

READY_POLL_SECONDS = 0.2
WORKER_STOP_SECONDS = 6.0
BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the n-th restart in a row; a start that becomes ready begins the row anew."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that were found."""

    java: Path
    torchserve_home: Path
    haproxy: Path


class Supervisor:
    """Serves until it is told to stop."""

    def __init__(
        self, settings: Settings, store: Path, tools: Tools, environ: dict[str, str]
    ) -> None:
        self._settings = settings
        self._store = store
        self._tools = tools
        self._log_file = frontend.default_log_file(settings)
        self._output_file = self._log_file.with_suffix(".out")
        self._edge_log = self._log_file.with_name("haproxy.log")
        self._run_dir = RunDir.make()
        self._environ = frontend.environment(self._run_dir, settings, environ)
        self._console = Console(self._run_dir.log_socket, self._watch_worker)
        self._worker: Watch | None = None
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one stops at once.

        Raises:
            CannotServe: the first start failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            frontend.write_config(self._run_dir, self._settings, self._store, self._log_file)
            config = edge.write_config(self._run_dir, self._settings)
            edge.check_config(self._tools.haproxy, config)
            await self._console.start()
            model = self._settings.model or "the built-in model"
            self._console.say(f"Starting TorchServe and loading {model} …")
            async with (
                background(self._keep_frontend()) as keep_frontend,
                background(self._keep_edge(config)) as keep_edge,
            ):
                await first_of(self._stop.wait(), keep_frontend, keep_edge)
                if self._stop.is_set():
                    self._console.say("Stopping.")
        finally:
            await self._console.close()
            self._run_dir.remove()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    # --- TorchServe ---------------------------------------------------------------------------

    async def _keep_frontend(self) -> None:
        """Have TorchServe running, ready or on its way to be, for ever.

        Raises:
            CannotServe: the first start failed.
        """
        num_failures = 0
        while True:
            await asyncio.sleep(BACKOFF_SECONDS[min(num_failures, len(BACKOFF_SECONDS) - 1)])
            num_failures += 1
            async with self._frontend() as process:
                if await self._wait_ready(process):
                    num_failures = 0
                    self._run_dir.open_door()
                    self._console.say("TorchServe is ready.")
                    self._ready.set()
                    await self._death(process)
                elif not self._ready.is_set():
                    raise CannotServe(
                        f"The service did not start. See {self._log_file} and, for Java itself, "
                        f"{self._output_file.name} beside it."
                    )
                self._run_dir.close_door()
                self._console.say("TorchServe or its worker has died; starting it again.")

    @contextlib.asynccontextmanager
    async def _frontend(self) -> AsyncIterator[Process]:
        """One run of TorchServe. The worker may close in order; Java has nothing to lose."""
        with self._output_file.open("wb") as output:
            process = await start_child(
                frontend.command(
                    self._run_dir, self._store, self._tools.java, self._tools.torchserve_home
                ),
                env=self._environ,
                cwd=str(self._run_dir.path),
                output=output,
            )
        try:
            yield process
        finally:
            self._run_dir.close_door()
            if self._worker is not None:
                self._worker.send_signal(signal.SIGTERM)
                await first_of(
                    self._worker.gone.wait(), self._hurry.wait(), limit=WORKER_STOP_SECONDS
                )
                self._worker.close()
                self._worker = None
            kill_group(process)
            await process.wait()

    async def _death(self, process: Process) -> None:
        """Wait until the front end or its worker is dead."""
        if self._worker is None:
            await process.wait()
        else:
            await first_of(process.wait(), self._worker.gone.wait())

    async def _wait_ready(self, process: Process) -> bool:
        """Wait until a prompt would be answered; ``False``: it died on the way."""
        while process.returncode is None:
            if self._worker is not None and self._worker.gone.is_set():
                return False
            worker = await frontend.worker_state(self._run_dir)
            if worker.pid and not _alive(worker.pid):
                return False
            if worker.ready and await frontend.service_ready(self._run_dir):
                return True
            await asyncio.sleep(READY_POLL_SECONDS)
        return False

    def _watch_worker(self, pid: int) -> None:
        """The worker has connected its log: see to it that its death is noticed at once."""
        try:
            self._worker = Watch(pid)
        except ProcessLookupError:
            return  # noticed by asking the management API

    # --- the edge -----------------------------------------------------------------------------

    async def _keep_edge(self, config: Path) -> None:
        """Have HAProxy running from the moment the service is ready, for ever.

        Raises:
            CannotServe: the first start failed.
        """
        await self._ready.wait()
        num_failures = 0
        is_first = True
        while True:
            await asyncio.sleep(BACKOFF_SECONDS[min(num_failures, len(BACKOFF_SECONDS) - 1)])
            num_failures += 1
            async with self._edge(config) as process:
                listening = await edge.wait_listening(self._settings)
                if listening and process.returncode is None:
                    num_failures = 0
                    if is_first:
                        self._announce()
                elif is_first:
                    raise CannotServe(f"HAProxy did not start. See {self._edge_log}.")
                is_first = False
                await process.wait()
                self._console.say("HAProxy has died; starting it again.")

    @contextlib.asynccontextmanager
    async def _edge(self, config: Path) -> AsyncIterator[Process]:
        """One run of HAProxy. Ended softly: replies under way may finish."""
        with self._edge_log.open("wb") as output:
            process = await start_child(
                edge.command(self._tools.haproxy, config),
                env=self._environ,
                cwd=str(self._run_dir.path),
                output=output,
            )
        try:
            yield process
        finally:
            grace = 0.0 if self._hurry.is_set() else float(edge.DRAIN_SECONDS)
            await stop_child(process, signal.SIGUSR1, grace, self._hurry)

    def _announce(self) -> None:
        self._console.say(ready_line(reachable_url(self._settings)))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
