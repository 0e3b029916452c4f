"""What the client makes of services that are missing, busy, silent or that break off."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator

import pytest

from tests.client.loopback import serve
from vlm_sessions.client import (
    AsyncClient,
    Busy,
    Client,
    ConnectionFailed,
    RetryPolicy,
    ServiceError,
    TimedOut,
)
from vlm_sessions.protocol.http import HttpReply, HttpRequest

OPENED = json.dumps(
    {"session_id": "s1", "expires_at": "2030-01-01T00:00:00Z", "images": []}
).encode()
BUSY = b'{"error": {"code": "too_many_sessions", "message": "Full. Try later."}}'
QUICKLY = RetryPolicy(num_retries=2)


class BusyService:
    """Refuses the first ``num_refusals`` requests with 429."""

    def __init__(self, num_refusals: int) -> None:
        self.num_refusals = num_refusals
        self.num_requests = 0

    async def __call__(self, _request: HttpRequest) -> HttpReply:
        self.num_requests += 1
        if self.num_requests <= self.num_refusals:
            return HttpReply(429, {"retry-after": "0"}, BUSY)
        return HttpReply(200, {"content-type": "application/json"}, OPENED)


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_service_that_is_not_there_is_said_to_be_unreachable() -> None:
    with Client(free_url()) as client, pytest.raises(ConnectionFailed, match="cannot reach"):
        client.open()


async def test_a_service_that_is_not_there_is_unreachable_asynchronously_too() -> None:
    async with AsyncClient(free_url()) as client:
        with pytest.raises(ConnectionFailed, match="cannot reach"):
            await client.open()


def test_a_url_that_is_none_is_a_failed_connection_and_no_strange_exception() -> None:
    with Client("ftp://example.org") as client, pytest.raises(ConnectionFailed):
        client.open()


def test_a_silent_service_times_out() -> None:
    async def silent(_request: HttpRequest) -> HttpReply:
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    with serve(silent) as url, Client(url, timeout=0.1) as client:
        with pytest.raises(TimedOut):
            client.generate("hello?")
        with pytest.raises(TimedOut):
            list(client.stream("hello?"))


def test_an_open_that_was_refused_for_now_is_sent_again() -> None:
    service = BusyService(num_refusals=2)
    with serve(service) as url, Client(url, retry=QUICKLY) as client:
        assert client.open().id == "s1"
    assert service.num_requests == 3


async def test_an_open_is_sent_again_asynchronously_too() -> None:
    service = BusyService(num_refusals=2)
    with serve(service) as url:
        async with AsyncClient(url, retry=QUICKLY) as client:
            assert (await client.open()).id == "s1"
    assert service.num_requests == 3


def test_a_service_that_stays_busy_is_reported_in_the_end() -> None:
    service = BusyService(num_refusals=100)
    with serve(service) as url, Client(url, retry=QUICKLY) as client:
        with pytest.raises(Busy) as caught:
            client.open()
        assert caught.value.code == "too_many_sessions"
    assert service.num_requests == 3


def test_a_prompt_is_not_sent_again_by_itself() -> None:
    service = BusyService(num_refusals=100)
    with serve(service) as url, Client(url, retry=QUICKLY) as client:
        with pytest.raises(Busy):
            client.generate("hello?")
        with pytest.raises(Busy):
            list(client.stream("hello?"))
    assert service.num_requests == 2


def test_a_stream_is_sent_again_when_the_caller_asked_for_it() -> None:
    service = BusyService(num_refusals=100)
    policy = RetryPolicy(num_retries=3, prompts=True)
    with serve(service) as url, Client(url, retry=policy) as client, pytest.raises(Busy):
        list(client.stream("hello?"))
    assert service.num_requests == 4


def test_a_stream_that_breaks_off_is_a_failed_connection_after_its_pieces() -> None:
    async def half() -> AsyncGenerator[bytes]:
        yield b'event: token\ndata: {"text": "half"}\n\n'

    async def service(_request: HttpRequest) -> HttpReply:
        return HttpReply(200, {"content-type": "text/event-stream"}, half())

    with serve(service) as url, Client(url) as client:
        stream = client.stream("hello?")
        assert next(stream) == "half"
        with pytest.raises(ConnectionFailed, match="middle of the answer"):
            next(stream)


def test_an_answer_is_not_to_be_had_before_the_streams_end() -> None:
    with Client(free_url()) as client:
        stream = client.stream("hello?")
        with pytest.raises(RuntimeError, match="after its last piece"):
            _ = stream.answer


def test_an_error_page_of_another_server_says_what_it_was() -> None:
    async def other(_request: HttpRequest) -> HttpReply:
        return HttpReply(502, {"content-type": "text/html"}, b"<html>Bad Gateway</html>")

    with serve(other) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="Bad Gateway") as caught:
            client.open()
        assert caught.value.status == 502
