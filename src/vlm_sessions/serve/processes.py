"""Child processes that cannot outlive the supervisor, not even if it is killed outright."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from vlm_sessions.serve.tasks import first_of

_PR_SET_PDEATHSIG = 1


async def start_child(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str, output: IO[bytes] | int
) -> asyncio.subprocess.Process:
    """Start ``command`` in a process group of its own; call this in the main thread.

    Its own group: Ctrl-C in a terminal reaches the supervisor alone, which stops its children in
    order. The kernel kills the child when the supervisor dies.

    Raises:
        OSError: the command cannot be run.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        env=dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent(os.getpid()),
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def run_in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return run_in_child


async def stop_child(
    process: asyncio.subprocess.Process,
    first: signal.Signals,
    grace: float,
    hurry: asyncio.Event,
) -> None:
    """Send ``first``, wait up to ``grace`` seconds or until ``hurry`` is set, then kill.

    In the end nothing of the child's process group is left.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(first)
        await first_of(process.wait(), hurry.wait(), limit=grace)
    kill_group(process)
    await process.wait()


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill the child and whatever it has started and not put into another group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class Watch:
    """A process that is not our child: notices its death at once, and signals no other by mistake.

    Args:
        pid: of a process that is alive.

    Raises:
        ProcessLookupError: it is not.
    """

    def __init__(self, pid: int) -> None:
        self.gone = asyncio.Event()
        self._handle = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._handle, self._on_death)

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self._handle, number)

    def close(self) -> None:
        """Watch no longer."""
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _on_death(self) -> None:
        self.close()
        self.gone.set()
