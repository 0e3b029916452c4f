"""How many threads torch should use, when nobody says.

A step is a few hundred short parallel sections, each of which ends when its slowest thread does. So
threads help as far as each has a processor core to itself, and one that must share its core holds
all others up: on a busy machine a step took fifteen times as long with two threads as with one.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

SYSTEM = Path("/sys")


def choose_num_threads(system: Path = SYSTEM) -> int:
    """One for each physical core that this process may use, less one for the processes beside the
    engine; at least one. Hyperthreads of a core count once, and a container's quota of processor
    time counts in whole cores."""
    cores = _count_cores(os.sched_getaffinity(0), system)
    quota = _read_quota(system)
    return max(1, (cores if quota is None else min(cores, int(quota))) - 1)


def _count_cores(cpus: Collection[int], system: Path) -> int:
    siblings = {
        _read(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        for cpu in cpus
    }
    return len(siblings)


def _read_quota(system: Path) -> float | None:
    """Processors' worth of time that the control group may use (cgroups v2, else v1)."""
    quota, _, period = (_read(system / "fs/cgroup/cpu.max") or "").partition(" ")
    if not quota:
        quota = _read(system / "fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = _read(system / "fs/cgroup/cpu/cpu.cfs_period_us") or ""
    if not (quota.isdecimal() and period.isdecimal()):
        return None  # "max" and -1: there is none
    return int(quota) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
