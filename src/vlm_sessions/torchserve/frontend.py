"""The socket to TorchServe's front end, with exactly one writer.

In asynchronous mode TorchServe 0.12 writes replies from a thread of its own while a handler writes
streams from the event loop, without a lock: big messages interleave, the framing breaks, and the
front end drops the worker. Moreover one exception in a handler makes TorchServe send a message that
fails every request in flight. So this wrapper takes the place of TorchServe's socket: all of a
request's messages come through ``send``, and what TorchServe itself wants to send is dropped,
because every request has been answered in full by then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


class FrontEndSocket:
    """Wraps the connected socket; ``recv`` and ``sendall`` are what TorchServe's threads call.

    Args:
        sock: the connection, in blocking mode, as TorchServe accepted it.
        on_end: called once, in TorchServe's receive thread, when the front end has gone.
    """

    def __init__(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        self._sock = sock
        self._on_end = on_end
        self._lock = asyncio.Lock()

    def recv(self, size: int) -> bytes:
        """Receive like ``socket.recv``; called by TorchServe's receive thread only."""
        try:
            data = self._sock.recv(size)
        except ConnectionError:
            data = b""
        if not data:
            self._on_end()
        return data

    def sendall(self, data: bytes) -> None:
        """Drop TorchServe's own reply. See the module's docstring."""

    async def send(self, data: bytes) -> None:
        """Send whole messages. Waits while the front end does not read, blocking no one else.

        Raises:
            ConnectionError: the front end has gone.
        """
        async with self._lock:
            view = memoryview(data)
            while view:
                try:
                    # The socket stays in blocking mode, which the receive thread needs.
                    sent = self._sock.send(view, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    await self._writable()
                else:
                    view = view[sent:]

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._sock.fileno())
