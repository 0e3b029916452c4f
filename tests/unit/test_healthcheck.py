"""The image's HEALTHCHECK, run as the engine runs it: by its exit code alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HEALTHCHECK = Path(__file__).parents[2] / "scripts" / "image" / "healthcheck.py"


class Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ping" else 404)
        self.end_headers()
        self.wfile.write(b"why")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Service, "status", 200)
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


def check(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", HEALTHCHECK],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"VLM_PORT": "PORT"},
        {"SAGEMAKER_BIND_TO_PORT": "PORT"},
        {"SAGEMAKER_BIND_TO_PORT": "9", "VLM_PORT": "PORT"},
        {"SAGEMAKER_BIND_TO_PORT": "PORT", "VLM_PORT": ""},
        {"VLM_HOST": "0.0.0.0", "VLM_PORT": "PORT"},
        {"VLM_HOST": "localhost", "VLM_PORT": "PORT"},
    ],
)
def test_it_asks_on_the_port_that_is_in_force(port: str, environ: dict[str, str]) -> None:
    checked = check(**{name: value.replace("PORT", port) for name, value in environ.items()})
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_ping_that_fails_is_unhealthy_and_says_why(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "status", 503)
    checked = check(VLM_PORT=port)
    assert (checked.returncode, checked.stderr) == (1, "/ping answers 503: why\n")


def test_a_service_that_hangs_or_is_not_there_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = str(hanging.getsockname()[1])
        assert check(VLM_PORT=port).stderr == "/ping does not answer: timed out\n"
    checked = check(VLM_PORT=port)
    assert (checked.returncode, checked.stderr.startswith("/ping does not answer: ")) == (1, True)
