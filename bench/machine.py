"""What was measured on: without it a number says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from bench.keep import moment

PACKAGES = ("vlm-sessions", "torch", "transformers", "torchserve")


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    num_cores: int
    memory_gib: float
    python: str
    versions: dict[str, str]
    """package -> version, of those that are installed"""
    commit: str
    """Of the checkout; ``+`` after it: with changes. Empty: no checkout."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a report begins with."""

    taken_at: str
    machine: Machine
    load_before: float
    """Load averages of a minute: this one and the next."""
    load_after: float


class ConditionFields(TypedDict):
    """``Conditions``, as a report takes them among its own fields."""

    taken_at: str
    machine: Machine
    load_before: float
    load_after: float


def conditions(load_before: float) -> ConditionFields:
    """Those of a run that ends now."""
    return {
        "taken_at": moment(),
        "machine": describe_machine(),
        "load_before": load_before,
        "load_after": load_average(),
    }


def describe_machine() -> Machine:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor_name(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages * page_bytes / 2**30, 1),
        python=platform.python_version(),
        versions={name: version for name in PACKAGES if (version := _version(name))},
        commit=_commit(),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def load_average() -> float:
    """Of the last minute: above the number of cores, others were running too."""
    return round(os.getloadavg()[0], 2)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()
