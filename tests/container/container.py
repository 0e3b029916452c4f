"""A running container, as its users and its operators see it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.container.engine import LABEL, Engine
from tests.container.forward import connect_inside, forwarding
from tests.container.image import Image

START_SECONDS = 120.0
RESTART_SECONDS = 60.0
"""Generous: CI machines are slow. The product promises 30 s on a quiet one."""
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:size=512m", "--cap-drop=ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "512"),
    *("--memory", "2g", "--memory-swap", "2g"),
)
SMALL = {"VLM_THREADS": "1", "VLM_KV_CACHE_MB": "64"}
"""Settings of a service that shares the machine with others of its kind."""


class Container:
    """One container; ``url`` leads to its port from this machine, also after a restart."""

    def __init__(self, engine: Engine, identity: str, port: int) -> None:
        self.engine = engine
        self.identity = identity
        self.port = port
        self.url = ""
        self._pid = 0

    # --- what the engine says -------------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.output("inspect", self.identity))
        return dict(found)

    def state(self) -> dict[str, Any]:
        return dict(self.inspect()["State"])

    def health(self) -> str:
        return str(self.state()["Health"]["Status"])

    def logs(self) -> str:
        logs = self.engine.run("logs", self.identity)
        return logs.stdout + logs.stderr

    def execute(
        self, *command: str, user: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        options = ["--user", user] if user else []
        return self.engine.run("exec", *options, self.identity, *command, check=check)

    # --- its processes, seen from outside ---------------------------------------------------------

    @property
    def pid(self) -> int:
        """This machine's number of the container's first process; 0: there is none."""
        if not self._pid or not Path(f"/proc/{self._pid}/ns/net").exists():
            asked = self.engine.run("inspect", "-f{{.State.Pid}}", self.identity, check=False)
            self._pid = int(asked.stdout) if asked.returncode == 0 else 0
        return self._pid

    def processes(self) -> list[psutil.Process]:
        """All but the first, whoever their parents are."""
        space = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = []
        for pid in psutil.pids():
            with suppress(OSError, psutil.NoSuchProcess):
                if pid != self.pid and Path(f"/proc/{pid}/ns/pid").readlink() == space:
                    found.append(psutil.Process(pid))
        return found

    def running(self, part: str) -> list[psutil.Process]:
        """Those with ``part`` in their command line; zombies have none."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def find(self, part: str) -> psutil.Process:
        """The one process with ``part`` in its command line."""
        found = self.running(part)
        assert len(found) == 1, f"{part!r}: {found} among {self.processes()}"
        return found[0]

    # --- talking and waiting ----------------------------------------------------------------------

    def connect(self) -> socket.socket:
        return connect_inside(self.pid, self.port)

    def ping(self) -> httpx.Response | None:
        """``None``: nobody answers."""
        try:
            return httpx.get(self.url + "/ping", timeout=5)
        except httpx.HTTPError:
            return None

    def wait_serving(self, seconds: float = START_SECONDS) -> float:
        """Wait until /ping answers 200; the seconds that it took."""
        begun = time.monotonic()
        self.wait(lambda: (ping := self.ping()) is not None and ping.status_code == 200, seconds)
        return time.monotonic() - begun

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something that a running container does.

        Raises:
            AssertionError: it has ended, or it took too long; the message shows its log.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            state = self.state()
            assert state["Running"], f"it ended with {state['ExitCode']}:\n{self.logs()[-6000:]}"
            assert time.monotonic() < deadline, f"not in {seconds} s:\n{self.logs()[-6000:]}"
            time.sleep(0.1)

    def wait_ended(self, seconds: float = 60.0) -> int:
        """Wait for its end; the exit code."""
        try:
            return int(self.engine.run("wait", self.identity, seconds=seconds).stdout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended in {seconds} s:\n{self.logs()[-6000:]}") from None

    # --- orders -----------------------------------------------------------------------------------

    def signal(self, name: str) -> None:
        """Signal the container's first process."""
        self.engine.run("kill", "--signal", name, self.identity)

    def start(self) -> None:
        """Once it has ended: again, on what it has kept."""
        self.engine.run("start", self.identity)


@contextmanager
def starting(
    image: Image,
    *options: str,
    environ: Mapping[str, str] | None = None,
    command: tuple[str, ...] = ("serve",),
    network: str = "none",
    port: int = 8080,
) -> Iterator[Container]:
    """Run the image; the container and its volumes without a name are removed in the end.

    Args:
        image: to run.
        options: of `docker run`.
        environ: the container's environment variables.
        command: what follows the image's name.
        network: ``none``, or ``container:ID`` for that of another container.
        port: that it will listen on.
    """
    settings = [f"--env={name}={value}" for name, value in (environ or {}).items()]
    arguments = ["--label", LABEL, f"--network={network}", *settings, *options, image.name]
    identity = image.engine.output("run", "--detach", *arguments, *command)
    container = Container(image.engine, identity, port)
    try:
        with forwarding(container.connect) as forwarded:
            container.url = f"http://127.0.0.1:{forwarded}"
            yield container
    finally:
        image.engine.run("rm", "--force", "--volumes", identity, check=False)


@contextmanager
def serving(
    image: Image, *options: str, environ: Mapping[str, str] | None = None, port: int = 8080
) -> Iterator[Container]:
    """The same, once it serves. Small, unless told otherwise."""
    settings = {**SMALL, **(environ or {})}
    with starting(image, *options, environ=settings, port=port) as container:
        container.wait_serving()
        yield container
