"""The Prometheus of deploy/compose: Debian's, in an image that is used as the official one is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.container.engine import Engine

IMAGE_NAME = "vlm-sessions-test:prometheus"
SCRAPED_SECONDS = 60.0
"""Generous, for scrapes that are a second apart."""
# The official image's paths and arguments, by which deploy/compose mounts and starts it.
ARGUMENTS = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus")
_DOCKERFILE = """
FROM {base}
RUN apt-get update -q \\
 && apt-get install -qy --no-install-recommends prometheus \\
 && rm -rf /var/lib/apt/lists/* \\
 && install -d -o nobody -g nogroup /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
"""


def build_prometheus(engine: Engine, base: str, directory: Path) -> None:
    """Build the image. Its layers stay in the engine's build cache.

    Args:
        base: of Debian's or Ubuntu's kind.
        directory: an empty one.
    """
    (directory / "Dockerfile").write_text(_DOCKERFILE.format(base=base))
    engine.run("build", "--network=host", "--tag", IMAGE_NAME, str(directory), seconds=600)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one, by its HTTP API."""

    url: str

    def targets(self) -> dict[tuple[str, str], str]:
        """Job and instance of all that it scrapes -> whether the last scrape succeeded."""
        return {
            (target["labels"]["job"], target["labels"]["instance"]): target["health"]
            for target in self._get("targets", state="active")["activeTargets"]
        }

    def total(self, expression: str) -> float:
        """The sum of all that an expression finds."""
        ((_, value),) = (
            each["value"]
            for each in self._get("query", query=f"sum({expression}) or vector(0)")["result"]
        )
        return float(value)

    def metric_names(self, job: str) -> set[str]:
        """Of all that it has read from the instances of a job."""
        return set(self._get("label/__name__/values", **{"match[]": f'{{job="{job}"}}'}))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for what it is to find out with its next scrapes."""
        deadline = time.monotonic() + SCRAPED_SECONDS
        while not self._holds(condition):
            assert time.monotonic() < deadline, f"not scraped in {SCRAPED_SECONDS} s: {self}"
            time.sleep(0.2)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except httpx.TransportError:  # it has not started yet
            return False

    def _get(self, path: str, **parameters: str) -> Any:
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        return reply.raise_for_status().json()["data"]
