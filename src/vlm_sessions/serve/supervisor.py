"""The parent of all processes: starts them in order, replaces those that die, stops them in order.

start:   TorchServe → its worker READY → our /ping through it 200 → the edge → the ready line
stop:    the worker refuses what is new, finishes what runs and closes → the edge passes the last
         bytes on → TorchServe is killed → the edge tells whoever still waits, and goes
a death: the edge answers 503 while TorchServe as a whole is started again; sessions come back
         from the journal. So does a hang. Too many failed starts in a row end the service.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, frontend
from vlm_sessions.serve.address import reachable_url
from vlm_sessions.serve.children import Children
from vlm_sessions.serve.console import Console
from vlm_sessions.serve.edge_keeper import EdgeKeeper
from vlm_sessions.serve.frontend_keeper import FrontendKeeper
from vlm_sessions.serve.greeting import ready_line
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.serve.stopping import Stopping
from vlm_sessions.serve.tasks import background, first_of

Process = asyncio.subprocess.Process


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that were found."""

    java: Path
    torchserve_home: Path
    haproxy: Path


class Supervisor:
    """Serves until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        store: Path,
        tools: Tools,
        environ: dict[str, str],
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tools = tools
        self._log_file = frontend.default_log_file(settings)
        self._output_file = self._log_file.with_suffix(".out")
        self._edge_log = self._log_file.with_name("haproxy.log")
        self._run_dir = RunDir.make()
        self._environ = frontend.environment(self._run_dir, settings, environ)
        self._children = Children()
        self._stopping = Stopping(settings.drain_seconds)
        self._console = Console(self._run_dir.log_socket, self._on_log_connection)
        self._frontend = FrontendKeeper(
            self._start_frontend,
            self._run_dir,
            log=f"{self._log_file} and, for Java itself, {self._output_file.name} beside it",
            say=self._console.say,
            stopping=self._stopping,
            patience=patience,
        )
        self._edge = EdgeKeeper(
            self._start_edge,
            lambda: edge.wait_listening(settings),
            lambda seconds: edge.ping(self._run_dir, seconds),
            log=str(self._edge_log),
            say=self._console.say,
            announce=self._announce,
            stopping=self._stopping,
            patience=patience,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal hurries.

        Raises:
            CannotServe: the first start failed, or later ones did too often.
        """
        with self._stopping.signals_heard(), self._children.orphans_reaped():
            try:
                await self._run()
            finally:
                await self._console.close()
                self._run_dir.remove()

    async def _run(self) -> None:
        frontend.write_config(self._run_dir, self._settings, self._store, self._log_file)
        config = edge.write_config(self._run_dir, self._settings)
        edge.check_config(self._tools.haproxy, config)
        await self._console.start()
        model = self._settings.model or "the built-in model"
        self._console.say(f"Starting TorchServe and loading {model} …")
        async with (
            background(self._edge.keep(self._frontend.ready)) as keep_edge,
            background(self._frontend.keep()) as keep_frontend,
        ):
            await first_of(self._stopping.asked.wait(), keep_frontend, keep_edge)
            if self._stopping.asked.is_set():
                self._console.say("Stopping.")
                await self._frontend.drain()
                await self._edge.drain()

    def _announce(self) -> None:
        url, asks_for_key = reachable_url(self._settings), self._settings.api_keys_file is not None
        self._console.say(ready_line(url, asks_for_key=asks_for_key))

    def _on_log_connection(self, pid: int) -> None:
        self._frontend.watch_worker(pid)

    async def _start_frontend(self) -> Process:
        command = frontend.command(
            self._run_dir, self._store, self._tools.java, self._tools.torchserve_home
        )
        return await self._start(command, self._output_file)

    async def _start_edge(self) -> Process:
        config = self._run_dir.path / edge.CONFIG_FILE
        return await self._start(edge.command(self._tools.haproxy, config), self._edge_log)

    async def _start(self, command: list[str], output_file: Path) -> Process:
        with output_file.open("wb") as output:
            return await self._children.start(
                command, env=self._environ, cwd=str(self._run_dir.path), output=output
            )
