"""The directory that a service keeps its journal in: private to the user, one service at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from vlm_sessions.errors import ConfigError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_RETRY_SECONDS = 0.05


class StateDir:
    """A state directory, held by this process until ``release``.

    The lock is the kernel's (``flock``): it goes with the process that holds it, however it ends.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def acquire(cls, path: Path, *, wait_seconds: float = 0.0) -> StateDir:
        """Create the directory if need be, and lock it. Blocks for up to ``wait_seconds``.

        Raises:
            ConfigError: it cannot be written, or another service holds it.
        """
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as exc:
            raise ConfigError(
                f"The state directory {path} cannot be used: {exc.strerror}. "
                f"Let uid {os.getuid()} write there, or set VLM_STATE_DIR to another directory."
            ) from exc
        _lock_exclusively(lock, path, time.monotonic() + wait_seconds)
        return cls(path, lock)

    def create_private(self, name: str) -> Path:
        """A file in the directory that only this user can read; kept as it is if it exists."""
        file = self.path / name
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        os.fchmod(descriptor, FILE_MODE)
        os.close(descriptor)
        return file

    def release(self) -> None:
        os.close(self._lock)


def _lock_exclusively(lock: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise ConfigError(
                    f"Another service uses the state directory {path}. "
                    "Stop it, or set VLM_STATE_DIR to a directory of this service's own."
                ) from exc
            time.sleep(_RETRY_SECONDS)
        else:
            return
