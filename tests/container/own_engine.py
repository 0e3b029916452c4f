"""A docker daemon of the tests' own, in private directories, without any change to the network."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DAEMON = "/usr/sbin/dockerd"
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_STORAGE_DRIVERS = ("overlay2", "vfs")
"""The second where the first cannot lie on top of what the machine itself stands on."""


class NoEngine(Exception):
    """No container can run here."""


@contextmanager
def own_daemon(work: Path) -> Iterator[Path]:
    """Start a daemon; gives its socket. It keeps all in ``work``, or in CONTAINER_CACHE, if set.

    Raises:
        NoEngine: it cannot run here; the message says why.
    """
    if shutil.which(_DAEMON) is None:
        raise NoEngine(f"there is no {_DAEMON}; scripts/need-docker installs it")
    data = Path(os.environ.get("CONTAINER_CACHE") or work / "data").absolute()
    failures = []
    # Sockets lie below it: their paths may have 107 bytes, and pytest's directories are long.
    run = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/tmp"))
    try:
        for driver in _STORAGE_DRIVERS:
            with _daemon(run, data, driver) as daemon:
                if _wait_listening(daemon, run / "docker.sock"):
                    yield run / "docker.sock"
                    return
            failures.append(f"{driver}: {_last_words(run / 'dockerd.log')}")
        raise NoEngine(f"dockerd does not start here: {'; '.join(failures)}")
    finally:
        _unmount_below(run, data)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _daemon(run: Path, data: Path, driver: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *("setpriv", "--pdeathsig", "TERM"),  # it ends with the tests, also when they are killed
        *(_DAEMON, "--host", f"unix://{run / 'docker.sock'}", "--data-root", str(data)),
        *("--exec-root", str(run / "exec"), "--pidfile", str(run / "docker.pid")),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        f"--storage-driver={driver}",
    ]
    with (run / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield daemon
    finally:
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(_STOP_SECONDS)
        daemon.kill()
        daemon.wait()


def _wait_listening(daemon: subprocess.Popen[bytes], socket: Path) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        if socket.exists():
            return True
        time.sleep(0.1)
    return False


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"


def _unmount_below(*directories: Path) -> None:
    """A daemon that was killed leaves the root directories of its containers mounted."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if any(Path(mount).is_relative_to(directory) for directory in directories):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
