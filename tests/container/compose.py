"""The project of deploy/compose as it is, but for the network: an engine here need not have any.

All its services share this machine's network, on ports of 127.0.0.1 that are free.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.container.container import Container
from tests.container.engine import Engine
from tests.container.monitoring import ARGUMENTS, IMAGE_NAME
from tests.container.programs import need_program
from tests.torchserve.server import free_port

DIRECTORY = Path(__file__).parents[2] / "deploy" / "compose"
SCRAPES = DIRECTORY.parent / "prometheus" / "prometheus.yml"
SUBNET = "10.201.64"
PORT = 8080
REPLICAS = ("replica-1", "replica-2")
ROUTERS = ("router-a", "router-b")
MONITOR = "prometheus"
UP_SECONDS = 300.0
# Runs of the tests side by side have a project each.
_NAME = {"COMPOSE_PROJECT_NAME": f"vlm-sessions-test-{os.getpid()}"}


@dataclass(frozen=True, slots=True)
class Compose:
    """``ports`` are those of its services, by their names in the project."""

    engine: Engine
    file: Path
    ports: dict[str, int]

    def run(self, *arguments: str) -> str:
        return compose(self.engine, "--file", str(self.file), *arguments)

    def container(self, service: str) -> Container:
        """The one that runs a service now."""
        container = Container(
            self.engine, self.run("ps", "--quiet", service).strip(), self.ports[service]
        )
        container.url = f"http://127.0.0.1:{container.port}"
        return container

    def replace(self, service: str) -> None:
        """What deploy/README.md says of updating, for Compose of either generation."""
        self.run("up", "--detach", "--no-deps", "--force-recreate", service)
        self.wait_healthy(service)

    def wait_healthy(self, service: str) -> None:
        container = self.container(service)
        container.wait(lambda: container.health() == "healthy", UP_SECONDS)


def compose(engine: Engine, *arguments: str, **environ: str) -> str:
    """Run Docker Compose, whichever generation is here.

    Raises:
        AssertionError: it failed.
    """
    command = [engine.client, "compose"]
    if subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        command = [need_program("docker-compose")]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, **engine.environ, **_NAME, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=UP_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@contextmanager
def project_here(engine: Engine, image: str, directory: Path) -> Iterator[Compose]:
    """The project up and healthy with an image; the containers and their volumes go in the end."""
    named = ("--file", str(DIRECTORY / "compose.yaml"), "--profile", "metrics")
    resolved = compose(engine, *named, "config", IMAGE=image, PROMETHEUS_IMAGE=IMAGE_NAME)
    config = yaml.safe_load(resolved)
    ports = {name: free_port() for name in (*REPLICAS, *ROUTERS, MONITOR)}
    _take_from_the_network(config, ports)
    scrapes = directory / SCRAPES.name
    scrapes.write_text(_scraped_here(SCRAPES.read_text(), ports))
    file = directory / "compose.yaml"
    file.write_text(yaml.safe_dump(config).replace(str(SCRAPES), str(scrapes)))
    project = Compose(engine, file, ports)
    try:
        project.run("up", "--detach")
        for service in (*REPLICAS, *ROUTERS):
            project.wait_healthy(service)
        yield project
    finally:
        project.run("--profile", "metrics", "down", "--volumes", "--timeout", "5")


def _take_from_the_network(config: dict[str, Any], ports: dict[str, int]) -> None:
    """Every service at an address of 127.0.0.1; what reached it reaches it there."""
    services: dict[str, Any] = config["services"]
    config.pop("networks")
    config.pop("name", None)
    places = {
        f"{services[name]['networks']['sessions']['ipv4_address']}:{PORT}": f"127.0.0.1:{port}"
        for name, port in ports.items()
        if name != MONITOR
    }
    peers = {f"{SUBNET}.{21 + number}:8100": f"127.0.0.1:{free_port()}" for number in range(2)}
    own = dict(zip(ROUTERS, peers.values(), strict=True))
    for name, service in services.items():
        for bridged in ("networks", "ports"):
            service.pop(bridged, None)
        service["network_mode"] = "host"
        if name == MONITOR:
            service["command"] = [*ARGUMENTS, f"--web.listen-address=127.0.0.1:{ports[name]}"]
            continue
        moved = places | peers | {"0.0.0.0:8100": own.get(name, "")}
        service["command"] = [_exchanged(word, moved) for word in service["command"]]
        if name in ROUTERS:
            service["command"] += ["--host=127.0.0.1", f"--port={ports[name]}"]
        service["environment"] = {
            **service.get("environment", {}),
            **{"VLM_HOST": "127.0.0.1", "VLM_PORT": str(ports[name])},
            **{"VLM_THREADS": "1", "VLM_KV_CACHE_MB": "64"},
        }


def _scraped_here(text: str, ports: dict[str, int]) -> str:
    """A configuration of Prometheus for the services where they are; it reads them often."""
    places = {f"{name}:{PORT}": f"127.0.0.1:{port}" for name, port in ports.items()}
    return _exchanged(text, {**places, "scrape_interval: 15s": "scrape_interval: 1s"})


def _exchanged(word: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        word = word.replace(old, new)
    return word
