"""One ``vlm-sessions serve`` of a cluster: its own port, its own state directory."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlm_sessions.cluster.keeper import Kept
from vlm_sessions.cluster.options import Member
from vlm_sessions.cluster.ports import LOOPBACK, Reservation
from vlm_sessions.serve.children import Children

SERVE = (sys.executable, "-m", "vlm_sessions.cli", "serve")
NOTICE_SECONDS = 3.0
"""Between the signal and the first refusal every router must have asked: one that was just told
"ready" asks again 250 ms after that answer, and on a busy machine an answer takes a second."""
STOP_SECONDS = 33.0
"""``serve`` itself takes at most 30 s to stop."""
_READY_LINE = "Ready at"


class Replica:
    """One replica, started again on the same port and state when it ends.

    Args:
        name: for the routers and the console.
        state_dir: its own.
        environ: of ``serve``; port, state directory and a few more are set here.
        command: what serves.
        say: writes a line to the console.
        hurry: set when a stop is to be a quick one.
    """

    def __init__(
        self,
        name: str,
        state_dir: Path,
        environ: Mapping[str, str],
        command: Sequence[str],
        *,
        children: Children,
        say: Callable[[str], None],
        hurry: asyncio.Event,
    ) -> None:
        self._port = Reservation.make()
        self._environ = {
            **environ,
            "VLM_HOST": LOOPBACK,
            "VLM_PORT": str(self._port.port),
            "VLM_STATE_DIR": str(state_dir),
        }
        self._command = command
        self._children = children
        self.name = name
        self.member = Member(name, self._port.address)
        self.process = Kept(
            name,
            self._start,
            say=say,
            # Its own ready line is for who runs it alone.
            show=lambda line: None if line.startswith(_READY_LINE) else say(f"{name}: {line}"),
            stop_signal=signal.SIGTERM,
            stop_seconds=STOP_SECONDS,
            hurry=hurry,
        )

    def release(self) -> None:
        """Give its port back, once it is stopped."""
        self._port.release()

    async def _start(self) -> asyncio.subprocess.Process:
        return await self._children.start(
            self._command, env=self._environ, cwd=str(Path.cwd()), output=asyncio.subprocess.PIPE
        )


def shared_environment(environ: Mapping[str, str], num_replicas: int) -> dict[str, str]:
    """What all replicas of one machine are told; what the user has set stays."""
    fitted = {
        "VLM_DRAIN_NOTICE_SECONDS": str(NOTICE_SECONDS),
        # Half of the cores compute, as in a service alone; they are shared.
        "VLM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // (2 * num_replicas))),
    }
    return {**environ, **{name: value for name, value in fitted.items() if not environ.get(name)}}
