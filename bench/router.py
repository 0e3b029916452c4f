"""``python -m bench.router``: what the sticky router adds to a request of a session.

The same request, `describe_session`, goes to a service directly and through a router, by turns,
each over a connection that stays open. It computes nothing: little else is in the figures.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import psutil
import typer
from rich.console import Console

from bench.keep import RESULTS
from bench.machine import Conditions, conditions, load_average
from bench.measure import Quantiles
from bench.program import Out, keep_run, telling
from bench.service import ServiceFailed, free_port, running_command, running_service
from bench.workload import Workload

SESSION = "X-Amzn-SageMaker-Session-Id"
PICTURE = {"Content-Type": "image/jpeg"}
REQUEST = {"type": "describe_session"}
NUM_WARM = 300


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    """Milliseconds a request. ``added`` is the median difference of a pair; ``router_cpu`` the
    router's processor time a request."""

    direct: Quantiles
    routed: Quantiles
    added: float
    router_cpu: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Milliseconds of requests that were sent one after the other; processor time in all."""

    direct: list[float]
    routed: list[float]
    router_cpu: float


async def measure(num_pairs: int) -> Pairs:
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as work:
        async with (
            running_service({"VLM_THREADS": "1"}, Path(work)) as url,
            _running_router(url, Path(work)) as (router, haproxy),
            httpx.AsyncClient(base_url=url, timeout=60) as direct,
            httpx.AsyncClient(base_url=router, timeout=60) as routed,
        ):
            opened = await direct.post(
                "/invocations", content=Workload(1).picture(), headers=PICTURE
            )
            session = str(opened.raise_for_status().json()["session_id"])
            for _ in range(NUM_WARM):
                await _time(direct, session)
                await _time(routed, session)
            pairs = Pairs([], [], 0.0)
            cpu_before = _cpu_ms(haproxy)
            for _ in range(num_pairs):
                pairs.direct.append(await _time(direct, session))
                pairs.routed.append(await _time(routed, session))
            return Pairs(pairs.direct, pairs.routed, _cpu_ms(haproxy) - cpu_before)


async def _time(http: httpx.AsyncClient, session: str) -> float:
    begun = time.perf_counter()
    reply = await http.post("/invocations", json=REQUEST, headers={SESSION: session})
    reply.raise_for_status()
    return 1000 * (time.perf_counter() - begun)


@asynccontextmanager
async def _running_router(replica: str, work: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Its URL and its HAProxy."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    arguments = ["router", f"--replica={replica.removeprefix('http://')}", f"--port={port}"]
    async with running_command(arguments, url, os.environ, work / "router.log") as process:
        (haproxy,) = psutil.Process(process.pid).children()
        yield url, haproxy


def _cpu_ms(process: psutil.Process) -> float:
    times = process.cpu_times()
    return 1000 * float(times.user + times.system)


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Of requests.")] = 3000,
    *,
    out: Out = RESULTS,
) -> None:
    """Measure, print, and keep the figures as JSON."""
    console = Console()
    load_before = load_average()
    with telling(console, ServiceFailed):
        found = asyncio.run(measure(pairs))
    report = Report(
        **conditions(load_before),
        direct=Quantiles.of(found.direct),
        routed=Quantiles.of(found.routed),
        added=round(median(b - a for a, b in zip(found.direct, found.routed, strict=True)), 3),
        router_cpu=round(found.router_cpu / pairs, 3),
    )
    for name, values in (("direct", report.direct), ("routed", report.routed)):
        console.print(f"{name}: p50 {values.p50:.2f} ms, p99 {values.p99:.2f} ms")
    console.print(
        f"added by the router: {report.added:.2f} ms; "
        f"its processor time: {report.router_cpu:.2f} ms"
    )
    keep_run("router", report, out, console)


if __name__ == "__main__":
    typer.run(main)
