"""What must be back where it was once all sessions are closed: memory, open files, threads, KV
blocks, rows of the journal, jobs of the front end."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.chaos.stack import Role, Stack, wait_until

_MIB = 2**20
# role -> MiB of resident memory that it may have more than before
MEMORY_MARGIN = {
    Role.ENGINE: 96,
    Role.WORKER: 48,
    Role.FRONTEND: 256,  # Java's heap is emptied when it is full, not sooner; see ``heap_mib``
    Role.EDGE: 24,
    Role.SUPERVISOR: 24,
}
HEAP_MARGIN = 16  # MiB of Java's objects that live
FILE_MARGIN = 8
THREAD_MARGIN = 8
JOB_MARGIN = 2
"""The supervisor may just be asking for /ping."""
SETTLE_SECONDS = 20.0
"""For connections to be closed and what has ended to be swept."""
TABLES = ("sessions", "images", "session_images", "turns")
# What must be zero, by the service's own metrics.
GAUGES = (
    "vlm_open_sessions",
    "vlm_engine_running_turns",
    "vlm_engine_waiting_turns",
    "vlm_kv_blocks_in_use",
    "vlm_kv_blocks_retained",
)
_HISTOGRAM = re.compile(r"#instances.*?^Total +\d+ +\d+", re.DOTALL | re.MULTILINE)
_JOB = "org.pytorch.serve.job.RestJob"


@dataclass(frozen=True, slots=True)
class Process:
    memory_mib: float
    num_files: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """With no session open and no client connected.

    Attributes:
        processes: role -> what it holds.
        gauges: metric -> value.
        rows: table of the journal -> rows.
        num_jobs: requests that TorchServe's front end holds on to.
        heap_mib: of Java's objects that live.
    """

    processes: Mapping[str, Process]
    gauges: Mapping[str, float]
    rows: Mapping[str, int]
    num_jobs: int
    heap_mib: float


async def measure(stack: Stack) -> Footprint:
    """Look at everything. While a process is being replaced it is missing."""
    gauges = _gauges(await stack.metrics())
    num_jobs, heap_bytes = await _ask_java(stack)
    return Footprint(
        processes={str(role): _look(each) for role, each in stack.processes().items()},
        gauges={name: gauges[name] for name in GAUGES},
        rows={table: stack.query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES},
        num_jobs=num_jobs,
        heap_mib=round(heap_bytes / _MIB, 1),
    )


async def settled(stack: Stack, baseline: Footprint | None) -> tuple[Footprint, list[str]]:
    """The footprint once it is as it should be, or after a while; and what then is not.

    Args:
        baseline: ``None``: this is to be one.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = await measure(stack)
        problems = compare(baseline or now, now)
        if not problems or time.monotonic() > deadline:
            return now, problems
        await asyncio.sleep(0.5)


def compare(before: Footprint, now: Footprint) -> list[str]:
    """What has grown beyond its margin, or is not empty."""
    problems = [f"{name} is {value:g}" for name, value in now.gauges.items() if value]
    problems += [f"the journal has {count} {table}" for table, count in now.rows.items() if count]
    if now.num_jobs > before.num_jobs + JOB_MARGIN:
        problems.append(f"the front end holds {now.num_jobs} jobs, {before.num_jobs} before")
    if now.heap_mib > before.heap_mib + HEAP_MARGIN:
        problems.append(f"Java's objects take {now.heap_mib} MiB, {before.heap_mib} before")
    for role in Role:
        was, has = before.processes.get(role), now.processes.get(role)
        if was is None or has is None:
            problems.append(f"there is no {role}")
            continue
        for what, old, new, margin in (
            ("MiB", was.memory_mib, has.memory_mib, MEMORY_MARGIN[role]),
            ("open files", was.num_files, has.num_files, FILE_MARGIN),
            ("threads", was.num_threads, has.num_threads, THREAD_MARGIN),
        ):
            if new > old + margin:
                problems.append(f"the {role} has {new:g} {what}, {old:g} before")
    return problems


def _look(process: psutil.Process) -> Process:
    with process.oneshot():
        memory = round(process.memory_info().rss / _MIB, 1)
        return Process(memory, process.num_fds(), process.num_threads())


def _gauges(metrics: str) -> dict[str, float]:
    """Those without labels."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if not sample.labels
    }


async def _ask_java(stack: Stack) -> tuple[int, int]:
    """Live jobs, and bytes of all live objects, after a garbage collection."""
    output = stack.state / "torchserve.out"
    num_before = len(output.read_text())
    stack.find(Role.FRONTEND).send_signal(signal.SIGQUIT)
    found: list[str] = []

    def written() -> bool:
        match = _HISTOGRAM.search(output.read_text(), num_before)
        found.extend(match[0].splitlines() if match else ())
        return match is not None

    await wait_until(written, "Java to count its objects")
    # A line: rank, instances, bytes, class, and its module if it has a name.
    rows = [line.split() for line in found]
    num_jobs = sum(int(row[1]) for row in rows if len(row) > 3 and row[3] == _JOB)
    return num_jobs, int(rows[-1][2])
