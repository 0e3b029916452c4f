"""Loopback ports that stay ours while nobody listens on them."""

from __future__ import annotations

import socket
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Reservation:
    """A port that is not given to anyone who asks the kernel for a free one.

    Who is told its number can listen on it (with ``SO_REUSEADDR``, as servers do), end, and listen
    again: the bound socket held here never listens and is in nobody's way.
    """

    port: int
    held: socket.socket

    @classmethod
    def make(cls) -> Reservation:
        """Reserve one that is free now."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((LOOPBACK, 0))
        return cls(held.getsockname()[1], held)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def release(self) -> None:
        self.held.close()
