"""A small disk for the state directory, where this user may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

SIZE_MIB = 96
_CHUNK = bytes(2**16)


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """Mount one at ``path`` during the block; whether that could be done."""
    path.mkdir(mode=0o700)
    size = f"size={SIZE_MIB}m,mode=0700"
    mounted = _run("mount", "-t", "tmpfs", "-o", size, "vlm-chaos", str(path))
    try:
        yield mounted
    finally:
        if mounted:
            _run("umount", "--lazy", str(path))


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def filled(disk: Path) -> Iterator[Callable[[], None]]:
    """During the block nothing more fits on the small disk that is mounted at ``disk``; gives a
    call that fills what has become free since."""
    filler = disk / "filler"
    try:
        _fill(filler)
        yield partial(_fill, filler)
    finally:
        filler.unlink(missing_ok=True)


def _fill(filler: Path) -> None:
    """Write until there is no room."""
    with filler.open("ab", buffering=0) as file:
        chunk = _CHUNK
        while chunk:
            try:
                file.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]
