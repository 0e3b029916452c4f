"""Debian's docker-registry on loopback, which docker trusts without TLS. It asks for a password."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx

from tests.container.programs import need_program
from tests.torchserve.server import free_port

START_SECONDS = 30.0

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {directory}/images}}}}
http: {{addr: "{host}"}}
auth: {{htpasswd: {{realm: tests, path: {directory}/htpasswd}}}}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """``host`` is its name in an image's URI."""

    host: str
    user: str
    password: str

    def tags(self, repository: str) -> set[str]:
        reply = self._get(f"{repository}/tags/list")
        return set(reply.json()["tags"])

    def manifest_type(self, repository: str, tag: str) -> str:
        """The media type of what a tag stands for, of all that a registry knows."""
        accepted = [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
        ]
        reply = self._get(f"{repository}/manifests/{tag}", accept=", ".join(accepted))
        return reply.headers["content-type"]

    def _get(self, path: str, accept: str = "*/*") -> httpx.Response:
        reply = httpx.get(
            f"http://{self.host}/v2/{path}",
            auth=(self.user, self.password),
            headers={"accept": accept},
        )
        return reply.raise_for_status()


@contextmanager
def serve_registry(directory: Path, user: str, password: str) -> Iterator[Registry]:
    """An empty registry that knows one user, as long as the context lasts."""
    program = need_program("docker-registry")
    registry = Registry(f"127.0.0.1:{free_port()}", user, password)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()
    (directory / "htpasswd").write_text(f"{user}:{hashed}\n")
    config = directory / "config.yml"
    config.write_text(CONFIG.format(directory=directory, host=registry.host))
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
    try:
        _await(registry, process, directory / "registry.log")
        yield registry
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await(registry: Registry, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(f"http://{registry.host}/v2/")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the registry did not start: {log.read_text()}")
