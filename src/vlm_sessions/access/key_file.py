"""The file of keys: read under guard, read again when it changes, and written by the CLI.

It holds digests only, so who may read it learns no key. Who may write it may add one: a file that
others than its owner may write is refused, as ssh refuses its own.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from vlm_sessions.access.keys import KeyLine, KeyRing, read_lines
from vlm_sessions.errors import ConfigError
from vlm_sessions.logs import get_logger

LOOK_SECONDS = 1.0
"""Between two looks at whether the file has changed."""
FILE_MODE = 0o600

_Stamp = tuple[int, ...]

_log = get_logger("keys")


class KeyFile:
    """The keys of a file, as it is now.

    A change is seen within ``LOOK_SECONDS``, at the next request. A file that has become
    unreadable, malformed or writable for others is logged, and the keys of before stay in force:
    neither a slip nor an editor's half-written file locks everybody out.

    Args:
        clock: monotonic seconds.

    Raises:
        ConfigError: the file cannot be used, or holds no key.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        if not len(self._keys):
            raise ConfigError(
                f"VLM_API_KEYS_FILE: {path} holds no key, so nobody could come in. Add one with "
                f"`vlm-sessions keys new NAME --add-to {path}`, or unset the setting."
            )

    def keys(self) -> KeyRing:
        """The keys in force."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._look()
        return self._keys

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except ConfigError as exc:
            _log.error("keys_not_read", reason=str(exc), num_keys=len(self._keys))
        else:
            _log.info("keys_read", num_keys=len(self._keys))


def read_keys(path: Path) -> KeyRing:
    """What is in the file now.

    Raises:
        ConfigError: it cannot be read, others may write it, or a line is malformed.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"VLM_API_KEYS_FILE: {path} cannot be read: {reason}. Let uid {os.getuid()} read it, "
            f"or make it with `vlm-sessions keys new NAME --add-to {path}`."
        ) from exc
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"VLM_API_KEYS_FILE: others than its owner may write {path}, and so let themselves in. "
            f"Run: chmod go-w {path}"
        )
    try:
        return read_lines(text)
    except ConfigError as exc:
        raise ConfigError(f"VLM_API_KEYS_FILE: {path}: {exc}") from exc


def add_line(path: Path, line: KeyLine) -> None:
    """Put a line at the end of the file, which is made if need be, for its owner alone.

    Raises:
        ConfigError: it cannot be written, or is no file of keys.
    """
    if path.exists():
        read_keys(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "a+b") as file:
            size = file.tell()
            file.seek(max(0, size - 1))
            start = "\n" if size and file.read() != b"\n" else ""
            file.write(f"{start}{line}\n".encode())
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}.") from exc


def _stamp(path: Path) -> _Stamp:
    """What changes with the file; empty while there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
