"""What the edge's lines about ended requests mean."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from vlm_sessions.torchserve.aborts import AbortListener, listen_for_aborts


@pytest.mark.parametrize(
    ("line", "aborted"),
    [
        (b"id-1 --", []),
        (b"id-1 CD\n", ["id-1"]),
        (b"id-1 cD", ["id-1"]),  # the client has read nothing for longer than the edge waits
        (b"id-1 sD", ["id-1"]),  # the edge has waited too long for us, and told the client so
        (b"id-1", []),
        (b"\xff\xff", []),
        (b"", []),
    ],
)
def test_only_a_reply_that_its_client_took_whole_is_no_abort(
    line: bytes, aborted: list[str]
) -> None:
    heard: list[str] = []
    AbortListener(heard.append).datagram_received(line, None)
    assert heard == aborted


async def test_a_socket_that_a_killed_worker_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "aborts.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left_behind:
        left_behind.bind(str(path))
    heard: asyncio.Queue[str] = asyncio.Queue()
    transport = await listen_for_aborts(path, heard.put_nowait)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as edge:
        edge.sendto(b"id-2 CD", str(path))
    assert await asyncio.wait_for(heard.get(), 5) == "id-2"
    transport.close()
