from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.release.moto import REGION, serve_aws
from tests.torchserve.server import free_port, wait_gone

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
START_SECONDS = 110.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class ReadmeService:
    """Started as the README says. ``environ`` is for what is run beside it: a shell whose AWS is
    moto's, and whose SageMaker endpoints are all this service, behind a router."""

    address: str
    environ: dict[str, str]


@pytest.fixture(scope="session")
def readme_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadmeService]:
    """`make serve` of this checkout, in the environment that runs the tests."""
    port = free_port()
    common = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VLM_")},
        "OMP_NUM_THREADS": "1",
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        # The environment is there already; what the target would install may not be changed here.
        ["make", "serve", f"VENV={VENV}", "--old-file", f"{VENV}/.installed-serve"],
        cwd=ROOT,
        env={
            **common,
            "VLM_PORT": str(port),
            "VLM_STATE_DIR": str(tmp_path_factory.mktemp("state")),
            "VLM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_line(process, "Ready at")
        address = f"127.0.0.1:{port}"
        with _routed(address, common) as endpoints, serve_aws() as aws:
            yield ReadmeService(
                address,
                {
                    **common,
                    **aws,
                    "VLM_PORT": str(free_port()),
                    "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": endpoints,
                    "AWS_DEFAULT_REGION": REGION,
                },
            )
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C, as the page says
        process.wait(STOP_SECONDS)
        assert not wait_gone(started), "Ctrl-C stops all of it"


@contextmanager
def _routed(replica: str, environ: dict[str, str]) -> Iterator[str]:
    """A router to the service: it serves the paths of SageMaker's runtime."""
    port = str(free_port())
    process = subprocess.Popen(
        [VENV / "bin" / "vlm-sessions", "router", "--replica", replica, "--port", port],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for_line(process, "Router at")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Read on after it, so that a full pipe never holds the process."""
    lines: list[str] = []
    found: queue.Queue[bool] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if part in line:
                found.put(True)
        found.put(False)

    threading.Thread(target=read, daemon=True).start()
    assert found.get(timeout=START_SECONDS), "it ended:\n" + "".join(lines)
