"""Hears from the edge which clients have left, so that their prompts stop using the device.

TorchServe never tells a handler that its client disconnected. HAProxy sees it at once: it logs one
line for each request that ended, ``<request id> <termination state>``, to a Unix datagram socket
which the worker owns. A state begins with ``-`` when the client took the whole reply; with ``C``
when it gave up first, with ``c`` when it stopped reading for too long, with another letter when the
edge ended it: in all of these nobody wants the rest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path


class AbortListener(asyncio.DatagramProtocol):
    """Calls ``on_abort(request_id)`` for every reply that ended before its client had it all."""

    def __init__(self, on_abort: Callable[[str], None]) -> None:
        self._on_abort = on_abort

    def datagram_received(self, data: bytes, addr: object) -> None:
        request_id, _, state = data.decode("ascii", "replace").strip().partition(" ")
        if request_id and state and not state.startswith("-"):
            self._on_abort(request_id)


async def listen_for_aborts(path: Path, on_abort: Callable[[str], None]) -> asyncio.BaseTransport:
    """Bind ``path`` anew and listen until closed. A socket that a dead worker left there goes."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: AbortListener(on_abort), local_addr=str(path), family=socket.AF_UNIX
    )
    return transport
