"""How much memory there is, and how much of it some work needs: a GPU's, or the host's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

_KIB = 1 << 10


class DeviceMemory(Protocol):
    """The memory that the model's caches share with everything else. Figures are in bytes."""

    def capacity(self) -> int:
        """All that may be used, by whomever."""
        ...

    def free(self) -> int:
        """What could still be taken now."""
        ...

    def peak_of(self, work: Callable[[], None]) -> int | None:
        """Do some work; the most that it needed at a time beyond what was there before it.

        ``None``: this device cannot tell.
        """
        ...


def memory_of(device: torch.device) -> DeviceMemory:
    return CudaMemory(device) if device.type == "cuda" else HostMemory()


class CudaMemory:
    """A GPU's memory, of which torch's allocator keeps what it once had."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def capacity(self) -> int:
        return torch.cuda.mem_get_info(self._device)[1]

    def free(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def peak_of(self, work: Callable[[], None]) -> int | None:
        """Counted is what the allocator took from the GPU, gaps between tensors included."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_reserved(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_reserved(self._device) - before


class HostMemory:
    """The machine's memory, or what its control group leaves of it (cgroups(7), both versions).

    Args:
        root: where ``proc`` and ``sys`` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        meminfo = _table(root / "proc/meminfo")
        self._capacity = meminfo.get("MemTotal:", 0) * _KIB
        self._free = meminfo.get("MemAvailable:", 0) * _KIB
        cgroup = root / "sys/fs/cgroup"
        self._limit_by(cgroup / "memory.max", cgroup / "memory.current", cgroup / "memory.stat")
        old = cgroup / "memory"
        self._limit_by(
            old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat"
        )

    def capacity(self) -> int:
        return self._capacity

    def free(self) -> int:
        return self._free

    def peak_of(self, work: Callable[[], None]) -> int | None:
        """Memory of the process is shared with the whole of Python: nothing would be learnt.

        The work is not done either. On a CPU it takes seconds, and a start should not.
        """
        del work
        return None

    def _limit_by(self, limit: Path, usage: Path, stat: Path) -> None:
        allowed, used = _number(limit), _number(usage)
        if allowed is None or used is None:
            return
        # Pages of files count as used, though they are given back when something else needs room.
        used -= _table(stat).get("inactive_file", 0)
        self._capacity = min(self._capacity, allowed)
        self._free = min(self._free, max(0, allowed - used))


def _number(path: Path) -> int | None:
    """What a file says, unless there is none, or no limit (``max``)."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Name -> number, of a file with one of each in a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
