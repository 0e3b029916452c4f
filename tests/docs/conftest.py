from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.client.loopback import forward_to, serve
from tests.torchserve.server import free_port, wait_gone

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
START_SECONDS = 110.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class ReadmeService:
    """Started as the README says. ``environ`` is for the blocks that are run beside it."""

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
        with serve(forward_to(f"http://{address}")) as sagemaker:
            yield ReadmeService(
                address,
                {
                    **common,
                    "VLM_PORT": str(free_port()),
                    "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": sagemaker,
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_ACCESS_KEY_ID": "none",
                    "AWS_SECRET_ACCESS_KEY": "none",
                },
            )
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C, as the page says
        process.wait(STOP_SECONDS)
        assert not wait_gone(started), "Ctrl-C stops all of it"


def _wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Read on after it, so that a full pipe never holds the service."""
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
    assert found.get(timeout=START_SECONDS), "make serve ended:\n" + "".join(lines)
