"""The one writer on the worker's socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from vlm_sessions.torchserve.frontend import FrontEndSocket


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_a_front_end_that_does_not_read_holds_up_no_one_else(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    front_end = FrontEndSocket(ours, on_end=lambda: None)
    messages = [bytes([index]) * 500_000 for index in range(4)]
    sending = [asyncio.create_task(front_end.send(message)) for message in messages]
    await asyncio.sleep(0)  # the loop comes back although nothing is read
    assert not any(task.done() for task in sending)
    received = await asyncio.to_thread(_read, theirs, 2_000_000)
    await asyncio.gather(*sending)
    assert received == b"".join(messages)


async def test_what_torchserve_wants_to_send_itself_is_dropped(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    front_end = FrontEndSocket(ours, on_end=lambda: None)
    front_end.sendall(b"fails every request in flight")
    await front_end.send(b"ours")
    assert theirs.recv(100) == b"ours"


def test_the_end_of_the_front_end_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ends: list[str] = []
    front_end = FrontEndSocket(ours, on_end=lambda: ends.append("ended"))
    theirs.sendall(b"x")
    assert front_end.recv(10) == b"x"
    theirs.close()
    assert front_end.recv(10) == b""
    assert ends == ["ended"]


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(65536)
    return data
