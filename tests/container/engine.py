"""A container engine to build and run on: the one that is there, else one of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.container.own_engine import NoEngine, own_daemon

LABEL = "vlm-sessions-test"
"""On every container that the tests start."""
_DEFAULT_SOCKET = Path("/var/run/docker.sock")
_KEPT_CACHE = "6GB"
_LAST_CLIENT_WITH_BUILDKIT = 22
"""Later clients leave BuildKit to the plug-in buildx."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A daemon, reached by its command line client."""

    client: str
    host: str

    def run(
        self, *arguments: str, check: bool = True, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run one command of the client; with ``check``, a failure shows what it said.

        Raises:
            AssertionError: it failed, and ``check`` is set.
        """
        ran = subprocess.run(
            [self.client, *arguments],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert not check or ran.returncode == 0, (
            f"docker {' '.join(arguments)[:300]}\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
        )
        return ran

    def output(self, *arguments: str) -> str:
        return self.run(*arguments).stdout.strip()

    @property
    def environ(self) -> Mapping[str, str]:
        """For whatever else is to talk to this daemon."""
        return {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def has_image(self, name: str) -> bool:
        return self.run("image", "inspect", name, check=False).returncode == 0


@contextmanager
def usable_engine(work: Path) -> Iterator[Engine]:
    """The engine that DOCKER_HOST names, the machine's own, or one that is started for the tests.

    Args:
        work: an empty directory for the latter.

    Raises:
        NoEngine: none can run here; the message says why.
    """
    if os.geteuid() != 0:
        raise NoEngine("it takes root to enter the networks of containers")
    client = _client()
    if host := os.environ.get("DOCKER_HOST"):
        yield _answering(Engine(client, host))
    elif _DEFAULT_SOCKET.exists():
        yield _answering(Engine(client, f"unix://{_DEFAULT_SOCKET}"))
    else:
        with own_daemon(work) as socket:
            engine = _answering(Engine(client, f"unix://{socket}"))
            _tidy(engine)
            yield engine


def _tidy(engine: Engine) -> None:
    """Remove what earlier runs on the same CONTAINER_CACHE have left, and bound what is kept."""
    for container in engine.output("ps", "--all", "--quiet").split():
        engine.run("rm", "--force", "--volumes", container)
    engine.run("image", "prune", "--force")
    engine.run("builder", "prune", "--force", f"--keep-storage={_KEPT_CACHE}")


def _answering(engine: Engine) -> Engine:
    version = engine.run("version", check=False)
    if version.returncode:
        raise NoEngine(f"{engine.host} does not answer: {version.stderr.strip()[-300:]}")
    return engine


def _client() -> str:
    """The first client that can build: one without BuildKit ignores secrets and mounts.

    Raises:
        NoEngine: there is none.
    """
    found = [path for path in (shutil.which("docker"), "/usr/bin/docker") if path]
    for client in found:
        if Path(client).is_file() and _has_buildkit(client):
            return client
    raise NoEngine("no docker client with BuildKit was found; scripts/need-docker installs one")


def _has_buildkit(client: str) -> bool:
    buildx = subprocess.run([client, "buildx", "version"], capture_output=True, check=False)
    if buildx.returncode == 0:
        return True
    said = subprocess.run([client, "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.split()  # Docker version 20.10.24, build …
    major = words[2].partition(".")[0] if len(words) > 2 else ""
    return major.isdecimal() and int(major) <= _LAST_CLIENT_WITH_BUILDKIT
