"""The real stack for a measurement: ``vlm-sessions serve`` as a subprocess, on a free port, with a
state directory of its own. Ended when the measurement is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

START_SECONDS = 300.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.1


class ServiceFailed(Exception):
    """The service did not start. The message ends with what it last said."""


@asynccontextmanager
async def running_service(settings: Mapping[str, str], work: Path) -> AsyncIterator[str]:
    """Serve with ``settings`` (``VLM_`` variables), and give the URL once it is ready.

    Args:
        work: a directory for state and log.

    Raises:
        ServiceFailed: it ended, or was not ready in time.
    """
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLM_")}
    own = {"VLM_PORT": str(port), "VLM_STATE_DIR": str(work / "state"), "VLM_LOG_LEVEL": "warning"}
    url, environ = f"http://127.0.0.1:{port}", {**kept, **own, **settings}
    async with running_command(["serve"], url, environ, work / "service.log"):
        yield url


@asynccontextmanager
async def running_command(
    arguments: Sequence[str], url: str, environ: Mapping[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``vlm-sessions`` with ``arguments``, from when ``url`` is ready to the end of the block.

    Raises:
        ServiceFailed: it ended, or was not ready in time.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vlm_sessions.cli", *arguments),
            env=dict(environ),
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            await _wait_ready(url, process)
        yield process
    except TimeoutError as exc:
        raise ServiceFailed(f"not ready in {START_SECONDS:g} s: {_tail(log)}") from exc
    except ChildProcessError as exc:
        raise ServiceFailed(f"{exc}: {_tail(log)}") from exc
    finally:
        await _stop(process)


async def _wait_ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        while True:
            if process.returncode is not None:
                raise ChildProcessError(f"the service ended with status {process.returncode}")
            try:
                if (await http.get(f"{url}/ping")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_SECONDS)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:])
