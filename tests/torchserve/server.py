"""A real server as its users start it: a process with TorchServe and HAProxy below it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

_RUN = """
import json, os, sys
from pathlib import Path
from vlm_sessions.config import Settings
from vlm_sessions.serve import run
from vlm_sessions.serve.patience import Patience
patience = Patience(**json.loads(sys.argv[2]))
sys.exit(run(Settings.from_env(os.environ), Path(sys.argv[1]), patience=patience))
"""
START_SECONDS = 90.0
RESTART_SECONDS = 30.0
"""What the product promises after the death of TorchServe or its worker."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running server; ``lines`` are those of its stderr so far."""

    process: subprocess.Popen[str]
    url: str
    state_dir: Path
    lines: list[str] = field(default_factory=list)
    _new_lines: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def wait_for_line(self, part: str, seconds: float) -> str:
        """The next line that contains ``part``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._new_lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {part!r} in:\n" + "".join(self.lines)
            if part in line:
                return line

    def read_lines(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._new_lines.put(line)
        self._new_lines.put(None)

    def descendants(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def find(self, part: str) -> psutil.Process:
        """The one process below the server with ``part`` in its command line."""
        (found,) = [p for p in self.descendants() if part in " ".join(p.cmdline())]
        return found

    def worker(self) -> psutil.Process:
        return self.find("model_service_worker.py")

    def java(self) -> psutil.Process:
        return self.find("org.pytorch.serve.ModelServer")

    def haproxy(self) -> psutil.Process:
        return self.find("haproxy")

    def wait_serving(self, seconds: float) -> float:
        """Poll /ping until it answers 200; the seconds that it took."""
        begun = time.monotonic()
        with httpx.Client(timeout=5) as http:
            while time.monotonic() - begun < seconds:
                with contextlib.suppress(httpx.HTTPError):
                    if http.get(self.url + "/ping").status_code == 200:
                        return time.monotonic() - begun
                time.sleep(0.1)
        raise AssertionError(f"not serving after {seconds} s:\n" + "".join(self.lines))

    def stop(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


Some = TypeVar("Some", bound=Server)


@contextlib.contextmanager
def serving(
    store: Path,
    state_dir: Path,
    *,
    java_options: str = "",
    patience: Mapping[str, float] = {},
    **settings: str,
) -> Iterator[Server]:
    """Start a server on a free port, wait until it is ready, and stop it in the end.

    Args:
        patience: fields of ``Patience`` that are not to be the product's own.
    """
    with starting(
        store, state_dir, java_options=java_options, patience=patience, **settings
    ) as server:
        server.wait_for_line("Ready at", START_SECONDS)
        yield server


@contextlib.contextmanager
def starting(
    store: Path,
    state_dir: Path,
    *,
    java_options: str = "",
    patience: Mapping[str, float] = {},
    **settings: str,
) -> Iterator[Server]:
    """The same without the wait. It has a process group of its own, like a terminal's command."""
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VLM_")},
        "VLM_PORT": str(port),
        "VLM_STATE_DIR": str(state_dir),
        "OMP_NUM_THREADS": "1",
        "JAVA_TOOL_OPTIONS": java_options,
        **{f"VLM_{name.upper()}": value for name, value in settings.items()},
    }
    arguments = ["-c", _RUN, str(store), json.dumps(dict(patience))]
    with running(Server, arguments, port, state_dir, env) as server:
        yield server


@contextlib.contextmanager
def running(
    kind: type[Some],
    arguments: Sequence[str],
    port: int,
    state_dir: Path,
    environ: Mapping[str, str],
) -> Iterator[Some]:
    """``python ARGUMENTS`` in a process group of its own; stopped in the end, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = kind(process, f"http://127.0.0.1:{port}", state_dir)
    threading.Thread(target=server.read_lines, daemon=True).start()
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def wait_gone(processes: list[psutil.Process], seconds: float = 5.0) -> list[psutil.Process]:
    """Those that are still alive after ``seconds``."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
