"""Writing a reply where the front end has gone: what computes it must hear of that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from vlm_sessions.protocol.http import HttpReply
from vlm_sessions.torchserve.exchange import write_reply


class FakeContext:
    """What ``write_reply`` uses of TorchServe's context."""

    def __init__(self) -> None:
        self.request_ids: Mapping[int, str] = {0: "r"}
        self.headers: dict[str, str] = {}

    def get_request_id(self, idx: int = 0) -> str:
        return self.request_ids[idx]

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return {}

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers[key] = value

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self.headers


class GoneAfterOne:
    """Takes one message; then the connection is lost."""

    def __init__(self) -> None:
        self.num_sent = 0

    async def send(self, data: bytes) -> None:
        self.num_sent += 1
        if self.num_sent > 1:
            raise BrokenPipeError


def encode(ret: list[bytes], *_: Any, **__: Any) -> bytes:
    return ret[0]


async def test_a_stream_whose_front_end_has_gone_is_closed_at_once() -> None:
    closed = False

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"token"
        finally:
            closed = True

    with pytest.raises(ConnectionError):
        await write_reply(HttpReply(200, {}, endless()), FakeContext(), encode, GoneAfterOne())
    assert closed
