"""What the processes of a service under test use of the machine, looked at from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

MIB = 2**20
# process -> what its command line has and no other's
MARKS: Mapping[str, str] = {
    "HAProxy": "haproxy",
    "TorchServe": "org.pytorch.serve.ModelServer",
    "worker": "model_service_worker",
    "engine": "vlm_sessions.build engine",
    "supervisor": "vlm_sessions.cli serve",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process. Memory in MiB."""

    own: float
    """What is freed when it ends (the unique set size): shared libraries count for nobody."""
    resident: float
    num_descriptors: int
    num_threads: int


def find_processes(url: str) -> dict[str, psutil.Process]:
    """The processes of the service at ``url``, which this one has started, by name."""
    port = str(urlsplit(url).port)
    found = {}
    for supervisor in psutil.Process().children():
        if supervisor.environ().get("VLM_PORT") != port:
            continue
        for process in (supervisor, *supervisor.children(recursive=True)):
            if name := name_of(process):
                found[name] = process
    return found


def name_of(process: psutil.Process) -> str | None:
    """Which of the service's processes it is; ``None``: none of them."""
    command = " ".join(process.cmdline())
    return next((name for name, mark in MARKS.items() if mark in command), None)


def look(process: psutil.Process) -> Usage:
    memory = process.memory_full_info()
    return Usage(
        own=round(memory.uss / MIB, 1),
        resident=round(memory.rss / MIB, 1),
        num_descriptors=process.num_fds(),
        num_threads=process.num_threads(),
    )


def look_at_all(url: str) -> dict[str, Usage]:
    """Usage of the service at ``url``, by the process's name."""
    return {name: look(process) for name, process in find_processes(url).items()}


def state_bytes(folder: Path) -> int:
    """Of a service's state directory, less logs: the journal, and what SQLite keeps beside it."""
    files = [each for each in folder.iterdir() if each.suffix not in {".log", ".out"}]
    return sum(each.stat().st_size for each in files)
