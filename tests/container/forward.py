"""A port of this machine that leads into a container which has no network but its own loopback.

Ordinary clients then talk to it, and what it serves needs no network to be served.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CHUNK_BYTES = 65536


def connect_inside(pid: int, port: int) -> socket.socket:
    """Connect to 127.0.0.1:``port`` as the process ``pid`` sees it.

    Only a thread changes its network, and it ends here; the socket stays where it was made.

    Raises:
        OSError: there is no such process, nothing listens there, or this user may not enter.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_enter_and_connect, pid, port).result()


def _enter_and_connect(pid: int, port: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open() as network:
        if libc.setns(network.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@contextmanager
def forwarding(connect: Callable[[], socket.socket]) -> Iterator[int]:
    """Pass each connection on to a new one of ``connect``; gives the port of 127.0.0.1."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), connect() as inside:
                inside.settimeout(None)
                _join(self.request, inside)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 512

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until both have ended; each end is passed on as it comes."""
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    # Also after a reset of either: what the other way still holds is passed on.
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
