"""The supervisor's private directory: generated configuration and Unix sockets, gone with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from vlm_sessions.config import ABORTS_SOCKET, DRAINED_MARK, LOG_SOCKET
from vlm_sessions.serve.errors import CannotServe

_PREFIX = "vlm-sessions-"
_LOCK = "in-use"
_MIN_AGE_SECONDS = 60.0
"""One that is younger may just be being made."""
_MAX_PARENT_BYTES = 68
"""A Unix socket's path may have 107 bytes; the longest below the parent takes 38 of them."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where everything lies. The path is short: a socket's path may have 107 bytes."""

    path: Path
    lock: int
    """Descriptor of the lock that says that the directory is in use."""

    @classmethod
    def make(cls) -> RunDir:
        """Make one that only this user can enter, and remove those of killed supervisors.

        It lies in the system's directory for temporary files, or in /tmp where that one's path is
        too long for sockets, as in deep working directories of CI.

        Raises:
            CannotServe: there is no directory for temporary files that can be written.
        """
        with _room_needed():
            parent = Path(tempfile.gettempdir())
            if len(os.fsencode(parent)) > _MAX_PARENT_BYTES:
                parent = Path("/tmp")
            _remove_abandoned(parent)
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            return cls(path, lock)

    @property
    def log_socket(self) -> Path:
        """Where the worker and its engines send their log lines."""
        return self.path / LOG_SOCKET

    @property
    def aborts_socket(self) -> Path:
        """Where the edge tells the worker which clients have left."""
        return self.path / ABORTS_SOCKET

    @property
    def edge_socket(self) -> Path:
        """Where the edge says that it lives."""
        return self.path / "edge.sock"

    @property
    def drained(self) -> Path:
        """Made by the worker when it has finished everything and only refuses what still comes."""
        return self.path / DRAINED_MARK

    @property
    def inference_socket(self) -> Path:
        return self.path / "inference.sock"

    @property
    def management_socket(self) -> Path:
        return self.path / "management.sock"

    @property
    def door(self) -> Path:
        """A link to the inference socket while the service can serve; the edge connects to it."""
        return self.path / "door.sock"

    def open_door(self) -> None:
        """Let requests in."""
        self.close_door()
        self.door.symlink_to(self.inference_socket.name)

    def close_door(self) -> None:
        """Turn new requests away with a 503; those inside go on."""
        self.door.unlink(missing_ok=True)

    def write(self, template: str, values: dict[str, str]) -> Path:
        """Fill in one of this package's templates and write it here, under its own name.

        Raises:
            CannotServe: there is no room.
        """
        text = resources.files("vlm_sessions.serve").joinpath(template).read_text("utf-8")
        target = self.path / template
        with _room_needed():
            target.write_text(Template(text).substitute(values), "utf-8")
        return target

    def remove(self) -> None:
        """Remove it and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


@contextlib.contextmanager
def _room_needed() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CannotServe(
            f"Temporary files cannot be written: {exc}. Make room in /tmp (of a container: "
            "--tmpfs /tmp), or let TMPDIR name another directory."
        ) from exc


def _remove_abandoned(parent: Path) -> None:
    for lock_file in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # someone else's, or gone meanwhile
            if time.time() - lock_file.stat().st_mtime < _MIN_AGE_SECONDS:
                continue
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
            finally:
                os.close(lock)
