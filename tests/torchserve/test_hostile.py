"""Bytes that mean harm, or are merely broken: a clean answer, never two, and others undisturbed.

Those that HAProxy cannot read as HTTP at all get its own page; see docs/errors.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.torchserve.server import Server
from tests.torchserve.test_transport import client, expected_stream, read_stream

PROTECTED = b"GET /v1/pid HTTP/1.1\r\nHost: x\r\n\r\n"
"""What an attacker would like to have taken for a request of its own."""
POST = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /v1/echo HTTP/1.1\r\nHost: x\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Replies:
    """All that came back on one connection."""

    raw: bytes
    closed: bool
    """By the service, rather than by our patience."""

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in _STATUS.findall(self.raw) if status != b"100"]

    @property
    def body(self) -> Any:
        """Of the only reply."""
        return json.loads(self.raw.partition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def connected(server: Server, seconds: float = 20.0) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        yield connection


def send(server: Server, raw: bytes, *, quiet_seconds: float = 20.0) -> Replies:
    """Send ``raw``, read until the service closes, or says no more for ``quiet_seconds``."""
    received, closed = b"", True
    with connected(server, quiet_seconds) as connection:
        try:
            connection.sendall(raw)
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            closed = False
        except ConnectionError:
            pass  # it closed while we still wrote
    return Replies(received, closed)


AMBIGUOUS = {
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 33\r\n\r\n" + PROTECTED,
    "a list of lengths": POST + b"Content-Length: 0, 33\r\n\r\n" + PROTECTED,
    "a signed length": POST + b"Content-Length: +33\r\n\r\n" + PROTECTED,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + PROTECTED,
    "an endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "chunks of garbage": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + PROTECTED,
    "garbage after a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX" + PROTECTED,
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + PROTECTED,
    "chunked, then more": POST + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n" + PROTECTED,
    "two encodings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + PROTECTED,
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + PROTECTED,
    "a NUL in a name": GET + b"X\0A: b\r\n\r\n" + PROTECTED,
    "a bare CR in a value": GET + b"X-A: b\rc\r\n\r\n" + PROTECTED,
    "two hosts": b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + PROTECTED,
    "another host in the address": b"GET http://a/v1/echo HTTP/1.1\r\nHost: b\r\n\r\n" + PROTECTED,
    "200 headers": GET + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n" + PROTECTED,
    "20 kB of headers": GET + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n" + PROTECTED,
    "20 kB of path": b"GET /v1/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + PROTECTED,
    "no version": b"GET /v1/echo\r\n\r\n" + PROTECTED,
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "noise": b"\xff\xfe\xfd\r\n\r\n" + PROTECTED,
}


@pytest.mark.parametrize("raw", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(
    stub_server: Server, raw: bytes
) -> None:
    replies = send(stub_server, raw)
    assert replies.statuses in ([400], [422])
    assert replies.closed
    assert b'"pid"' not in replies.raw


def test_http_2_is_not_spoken(stub_server: Server) -> None:
    replies = send(stub_server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    assert set(replies.statuses) == {400}


TWO_FRAMINGS = {
    "a length, then chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "chunks, then a length": b"Transfer-Encoding: chunked\r\nContent-Length: 38\r\n",
}


@pytest.mark.parametrize("headers", TWO_FRAMINGS.values(), ids=TWO_FRAMINGS)
def test_chunks_win_over_a_length_and_nothing_after_them_is_read(
    stub_server: Server, headers: bytes
) -> None:
    replies = send(stub_server, POST + headers + b"\r\n0\r\n\r\n" + PROTECTED)
    assert (replies.statuses, replies.closed) == ([200], True)
    assert (replies.body["path"], replies.body["size"]) == ("/v1/echo", 0)
    assert replies.body["headers"].get("content-length", "0") == "0"


def test_http_1_0_knows_no_chunks_and_nothing_after_them_is_read(stub_server: Server) -> None:
    head = b"POST /v1/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    replies = send(stub_server, head + b"0\r\n\r\n" + PROTECTED)
    assert (len(replies.statuses), replies.closed) == (1, True)
    assert b'"pid"' not in replies.raw


def test_a_folded_header_is_one_header(stub_server: Server) -> None:
    replies = send(stub_server, GET + b"X-A: b\r\n x-status: 418\r\nConnection: close\r\n\r\n")
    assert replies.statuses == [200]
    assert replies.body["headers"]["x-a"].split() == ["b", "x-status:", "418"]
    assert "x-status" not in replies.body["headers"]


def test_a_nul_in_a_headers_value_is_a_bad_request(stub_server: Server) -> None:
    replies = send(stub_server, GET + b"X-A: b\0c\r\nConnection: close\r\n\r\n")
    assert replies.statuses == [400]
    assert replies.body["error"]["code"] == "bad_request"


@pytest.mark.parametrize("name", ["X-A", "Content-Type", "Cookie"])
def test_headers_over_the_limit_are_refused_in_json(stub_server: Server, name: str) -> None:
    reply = httpx.get(stub_server.url + "/v1/echo", headers={name: "a" * 7000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (431, "headers_too_large")
    assert httpx.get(stub_server.url + "/v1/echo", headers={"X-A": "a" * 6500}).status_code == 200


def test_headers_at_their_limits_together_still_get_through(stub_server: Server) -> None:
    headers = {"content-type": "a" * 256, "x-a": "a" * 6400}
    path = "/v1/echo?" + "q" * 2000
    assert httpx.get(stub_server.url + path, headers=headers).status_code == 200


def test_a_path_over_the_limit_is_not_found(stub_server: Server) -> None:
    reply = httpx.get(stub_server.url + "/v1/" + "a" * 300)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("escape", ["%", "%zz", "%00", "%ff", "%2e%2e/models"])
def test_an_escape_in_a_path_well_formed_or_not_is_not_found(
    stub_server: Server, escape: str
) -> None:
    raw = f"GET /v1/{escape} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    replies = send(stub_server, raw)
    assert (replies.statuses, replies.body["error"]["code"]) == ([404], "not_found")


def test_an_expectation_that_nobody_knows_is_ignored(stub_server: Server) -> None:
    head = POST + b"Expect: a miracle\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    assert send(stub_server, head + b"abc").statuses == [200]


def test_an_address_in_full_is_its_path(stub_server: Server) -> None:
    own = b"GET http://x/v1/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert send(stub_server, own).body["path"] == "/v1/echo"
    inner = own.replace(b"/v1/echo", b"/models")
    assert send(stub_server, inner).statuses == [404]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_another_method_is_refused_in_json(stub_server: Server, method: str) -> None:
    reply = httpx.request(method, stub_server.url + "/v1/echo")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, POST"


def test_pipelined_requests_are_answered_in_order(stub_server: Server) -> None:
    def answer(size: int) -> bytes:
        return b"GET /v1/answer HTTP/1.1\r\nHost: x\r\nx-size: %d\r\n\r\n" % size

    stream = b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nx-chunks: 3\r\n\r\n"
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    replies = send(stub_server, answer(3) + stream + answer(5) + last)
    assert replies.statuses == [200, 200, 200, 500]
    assert re.findall(rb"aaa+|00000\d", replies.raw) == [
        *(b"aaa", b"000000", b"000001", b"000002", b"aaaaa")
    ]


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_client_of_http_1_0_gets_whole_replies_and_streams(
    stub_server: Server, size: int
) -> None:
    def ask(path: bytes, header: bytes) -> bytes:
        replies = send(stub_server, b"POST %s HTTP/1.0\r\n%s\r\n\r\n" % (path, header))
        head, _, body = replies.raw.partition(b"\r\n\r\n")
        assert (replies.statuses, replies.closed) == ([200], True)
        assert b"content-length: %d" % len(body) in head
        assert b"transfer-encoding" not in head
        return body

    assert ask(b"/v1/answer", b"x-size: %d" % size) == b"a" * size
    stream = ask(b"/v1/stream", b"x-chunks: 4\r\nx-size: %d" % size)
    assert stream == expected_stream(4, size)


def test_a_body_that_stops_arriving_is_given_up(stub_server: Server) -> None:
    replies = send(stub_server, POST + b"Content-Length: 100\r\n\r\nabc", quiet_seconds=90)
    assert (replies.statuses, replies.closed) == ([408], True)
    assert replies.body["error"]["code"] == "bad_request"


def test_a_client_that_waits_to_be_told_to_go_on_is_told_once(stub_server: Server) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    replies = send(stub_server, head + b"abc")
    assert replies.raw.count(b"HTTP/1.1 100 ") == 1
    assert replies.statuses == [200]


@contextlib.asynccontextmanager
async def slow_clients(server: Server) -> AsyncIterator[None]:
    """200 that send a header byte now and then, 50 that read next to nothing of a long stream."""
    host, port = server.url.removeprefix("http://").split(":")

    async def connect(first: bytes) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(first)
        return writer

    async def dribble(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # the edge has lost its patience
            while True:
                await asyncio.sleep(0.5)
                writer.write(b"a")
                await writer.drain()

    stream = b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    dribblers = await asyncio.gather(*(connect(GET + b"X-A: ") for _ in range(200)))
    readers = await asyncio.gather(
        *(connect(stream + b"x-chunks: 50\r\nx-size: 8000\r\n\r\n") for _ in range(50))
    )
    tasks = [asyncio.create_task(dribble(writer)) for writer in dribblers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for writer in (*dribblers, *readers):
            writer.close()


async def test_250_slow_clients_disturb_no_other(stub_server: Server) -> None:
    async with slow_clients(stub_server), client(stub_server) as http:
        for _ in range(5):
            begun = time.monotonic()
            answers = await asyncio.gather(*(read_stream(http, 20) for _ in range(8)))
            assert list(answers) == [expected_stream(20)] * 8
            assert (await http.get("/ping")).status_code == 200
            assert time.monotonic() - begun < 10
