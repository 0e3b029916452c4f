"""The children of a process that others' children may be handed to.

As PID 1 of a container, and as the subreaper that we make ourselves, the supervisor becomes the
parent of every process below it whose own parent has died. Whoever has ended stays a zombie until
its parent asks for its exit status; nobody but us will.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from vlm_sessions.serve.processes import start_child

_PR_SET_CHILD_SUBREAPER = 36
_AGAIN_SECONDS = 0.05


class Children:
    """Starts children of our own, and reaps those of others. Belongs to one event loop.

    The exit status of a child of our own is asyncio's to collect: it must not be taken from it.
    """

    def __init__(self) -> None:
        self._own: dict[int, asyncio.subprocess.Process] = {}
        self._num_starting = 0
        self._reaps_orphans = False

    @contextmanager
    def orphans_reaped(self) -> Iterator[None]:
        """Adopt the orphans below us and reap them during the block, in the main thread."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reaps_orphans = True
        try:
            yield
        finally:
            self._reaps_orphans = False
            loop.remove_signal_handler(signal.SIGCHLD)

    async def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str, output: IO[bytes] | int
    ) -> asyncio.subprocess.Process:
        """Start ``command``; see ``start_child``.

        Raises:
            OSError: the command cannot be run.
        """
        self._num_starting += 1  # it may end before its id is known here
        try:
            process = await start_child(command, env=env, cwd=cwd, output=output)
            self._own[process.pid] = process
        finally:
            self._num_starting -= 1
            self._reap()
        return process

    def _reap(self) -> None:
        """Collect every zombie that is not our own."""
        if self._num_starting or not self._reaps_orphans:
            return
        for pid in [pid for pid, own in self._own.items() if own.returncode is not None]:
            del self._own[pid]
        with suppress(ChildProcessError):  # there are no children at all
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if ended.si_pid in self._own:
                    # asyncio will have collected it in a moment; until then it may hide others.
                    asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._reap)
                    return
                os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
