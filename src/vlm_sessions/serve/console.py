"""Log lines of the worker and its engines, on their way to the supervisor's own stderr.

A terminal that stands still (Ctrl-S, a full pipe) must not stop the service: lines wait in a
bounded queue that a thread empties, and those that find it full are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from vlm_sessions.serve.memory_table import as_table

MAX_QUEUED_LINES = 10_000
MAX_LINE_BYTES = 65_536


class Console:
    """Reads lines from everyone who connects to ``path``, and writes them to stderr.

    Args:
        path: of the Unix socket to listen on.
        on_connect: called with the process id of each that connects.
    """

    def __init__(self, path: Path, on_connect: Callable[[int], None]) -> None:
        self._path = path
        self._on_connect = on_connect
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED_LINES)
        self._num_dropped = 0
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._write_lines, name="console", daemon=True)

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._read_lines, str(self._path), limit=MAX_LINE_BYTES
        )
        self._thread.start()

    def say(self, line: str) -> None:
        """Write a line of the supervisor's own, in order with the others."""
        self._put(line.encode() + b"\n")

    async def close(self) -> None:
        """Write what is queued, for a second at most."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 1.0)

    async def _read_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._on_connect(_peer_pid(writer.get_extra_info("socket")))
        try:
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError as exc:
                    line = await reader.readexactly(exc.consumed)
                except asyncio.IncompleteReadError as exc:
                    if exc.partial:
                        self._put(exc.partial + b"\n")
                    return
                self._put(line)
        except ConnectionError:
            return
        finally:
            writer.close()

    def _put(self, line: bytes) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._num_dropped += 1

    def _write_lines(self) -> None:
        stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
        is_terminal = os.isatty(stderr)
        while (line := self._lines.get()) is not None:
            if is_terminal:
                line = as_table(line) or line
            if self._num_dropped:
                line += f"({self._num_dropped} log lines were dropped)\n".encode()
                self._num_dropped = 0
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                os.write(stderr, line)


def _peer_pid(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[0])
