"""The engine process, from within: one thread reads commands, one steps, one writes replies.

It dies with its parent, and at once: the parent's end of the socket closes, and on Linux the kernel
also sends SIGKILL. It dies loudly when the device fails: nothing that it holds is worth saving,
since everything here is a cache of the session layer's record.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.interface import Runner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.loop import EngineLoop
from vlm_sessions.engine.wire import (
    Command,
    Loaded,
    LoadFailed,
    Reply,
    decode_command,
    encode,
    receive_body,
)

_PR_SET_PDEATHSIG = 1
_FLUSH_SECONDS = 5.0


def serve_engine(
    make_runner: Callable[[], Runner],
    fd: int,
    limits: EngineLimits,
    *,
    wall: Callable[[], float] = time.time,
) -> None:
    """Be the engine process: load the model, then serve ``fd`` until the other end is closed.

    To be called by the main thread of a process that ``EngineProcess`` started. Ends the process
    rather than return when the parent is gone.

    Args:
        make_runner: loads the model.
        fd: the socket that ``EngineProcess`` put last on the command line.
        wall: seconds since the epoch, for retentions.

    Raises:
        Exception: the model could not be loaded (the parent is told why), or a step failed. To be
            left to end the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the parent, which drains first
    _die_with_parent()
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(True)
    writer = _ReplyWriter(sock)
    loop = EngineLoop(writer.put)
    writer.start()
    _CommandReader(sock, loop.put).start()
    try:
        engine = Engine(make_runner(), limits, wall=wall)
    except Exception as exc:
        writer.put(LoadFailed(f"{type(exc).__name__}: {exc}"))
        writer.flush()
        raise
    writer.put(Loaded(engine.info))
    try:
        loop.run(engine)
    finally:
        writer.flush()


class _CommandReader(threading.Thread):
    """Reads commands from the first moment, so that a parent that goes away is noticed at once."""

    def __init__(self, sock: socket.socket, put: Callable[[Command], None]) -> None:
        super().__init__(name="engine-reader", daemon=True)
        self._sock = sock
        self._put = put

    def run(self) -> None:
        while (body := receive_body(self._sock)) is not None:
            self._put(decode_command(body))
        os._exit(0)  # whatever the step loop is doing, nobody wants it any more


class _ReplyWriter(threading.Thread):
    """Writes replies behind the step loop's back, so that a slow reader does not hold up a step."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="engine-writer", daemon=True)
        self._sock = sock
        self._outbox: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()

    def put(self, reply: Reply) -> None:
        self._outbox.put(reply)

    def flush(self) -> None:
        """Write what is left and end."""
        self._outbox.put(None)
        self.join(_FLUSH_SECONDS)

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: the reader ends the process
            while (reply := self._outbox.get()) is not None:
                self._sock.sendall(encode(reply))


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
