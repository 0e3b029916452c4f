"""What the way through edge, TorchServe and adapter must do, whatever service stands at its end.

Each test holds a fact of TorchServe 0.12 that would harm clients if it were not dealt with.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import time

import httpx
import pytest

from tests.torchserve.server import Server

JSON = {"content-type": "application/json"}
_HISTOGRAM = re.compile(r"#instances.*?^Total +\d+", re.DOTALL | re.MULTILINE)


def client(server: Server, **options: object) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=64)
    return httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits, **options)  # type: ignore[arg-type]


async def read_stream(http: httpx.AsyncClient, num_chunks: int, **headers: str) -> bytes:
    sent = {"x-chunks": str(num_chunks), **headers}
    async with http.stream("POST", "/v1/stream", headers=sent) as reply:
        assert reply.status_code == 200
        return await reply.aread()


def expected_stream(num_chunks: int, size: int = 16) -> bytes:
    return b"".join((b"%06d " % index).ljust(size, b".") for index in range(num_chunks))


async def test_one_failing_request_leaves_16_concurrent_streams_whole(stub_server: Server) -> None:
    async with client(stub_server) as http:
        streams = [
            asyncio.create_task(read_stream(http, 40, **{"x-delay": "0.02"})) for _ in range(16)
        ]
        while not all(task.done() for task in streams):
            failed = await http.post("/v1/raise")
            assert failed.status_code == 500
            assert failed.json()["error"]["code"] == "internal"
        assert [await task for task in streams] == [expected_stream(40)] * 16


async def test_a_stream_that_breaks_off_ends_and_harms_no_other(stub_server: Server) -> None:
    async with client(stub_server) as http:
        whole = asyncio.create_task(read_stream(http, 20, **{"x-delay": "0.02"}))
        while not whole.done():
            assert (await http.post("/v1/break")).content == b"so far"
        assert await whole == expected_stream(20)


async def test_5_mb_in_and_1_mb_out_arrive_whole_with_16_clients_at_once(
    stub_server: Server,
) -> None:
    bodies = [os.urandom(5_000_000 + index) for index in range(4)]

    async def send(http: httpx.AsyncClient, body: bytes) -> None:
        seen = (await http.post("/v1/echo", content=body, headers=JSON)).json()
        assert (seen["size"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())

    async def receive(http: httpx.AsyncClient) -> None:
        reply = await http.post("/v1/answer", headers={"x-size": "1000000"})
        assert reply.content == b"a" * 1_000_000

    async with client(stub_server) as http:
        await asyncio.gather(
            *(send(http, bodies[index % 4]) for index in range(16)),
            *(receive(http) for _ in range(16)),
            *(read_stream(http, 100) for _ in range(16)),
        )


async def test_big_and_small_stream_chunks_of_many_requests_do_not_mix(
    stub_server: Server,
) -> None:
    sizes = [7, 8191, 8192, 8193, 60_000, 400_000]
    async with client(stub_server) as http:
        streams = await asyncio.gather(
            *(read_stream(http, 8, **{"x-size": str(size)}) for size in sizes * 3)
        )
    assert list(streams) == [expected_stream(8, size) for size in sizes * 3]


async def test_200_single_replies_and_streams_leave_no_job_behind_in_the_front_end(
    stub_server: Server,
) -> None:
    async with client(stub_server) as http:
        for _ in range(10):
            await asyncio.gather(
                *(http.post("/v1/answer", headers={"x-size": "100"}) for _ in range(10)),
                *(http.post("/v1/answer", headers={"x-status": "404"}) for _ in range(10)),
                *(read_stream(http, 2) for _ in range(5)),
            )
    assert num_java_objects(stub_server, "org.pytorch.serve.ModelServer") == 1
    assert num_java_objects(stub_server, "org.pytorch.serve.job.RestJob") <= 3


def num_java_objects(server: Server, name: str) -> int:
    """Live objects of a class, after a garbage collection, as Java writes them on SIGQUIT."""
    output = server.state_dir / "torchserve.out"
    before = len(output.read_text())
    server.java().send_signal(signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while not (histogram := _HISTOGRAM.search(output.read_text(), before)):
        assert time.monotonic() < deadline, "Java has written no histogram"
        time.sleep(0.1)
    # A line: rank, instances, bytes, class, and its module if it has a name.
    rows = [line.split() for line in histogram[0].splitlines()]
    return sum(int(row[1]) for row in rows if len(row) > 3 and row[3] == name)


async def test_slow_readers_stall_nobody(stub_server: Server) -> None:
    address = stub_server.url.removeprefix("http://").split(":")
    request = b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nx-chunks: 50\r\nx-size: 400000\r\n\r\n"
    slow = [socket.create_connection((address[0], int(address[1]))) for _ in range(8)]
    try:
        for connection in slow:
            connection.sendall(request)  # 20 MB each, of which nothing is read
        async with client(stub_server) as http:
            begun = time.monotonic()
            answers = await asyncio.gather(*(read_stream(http, 20) for _ in range(8)))
            assert list(answers) == [expected_stream(20)] * 8
            assert time.monotonic() - begun < 10
    finally:
        for connection in slow:
            connection.close()


async def test_chunks_of_a_stream_arrive_as_they_are_sent(stub_server: Server) -> None:
    async with (
        client(stub_server) as http,
        http.stream("POST", "/v1/stream", headers={"x-chunks": "3", "x-delay": "0.4"}) as reply,
    ):
        arrivals = [time.monotonic() async for _ in reply.aiter_raw()]
    assert len(arrivals) >= 3
    assert arrivals[2] - arrivals[0] > 0.6


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "image/png", "application/x-www-form-urlencoded", None],
)
def test_a_body_arrives_as_sent_whatever_its_type(
    stub_server: Server, content_type: str | None
) -> None:
    body = b'{"a": "\xff not even text &b=c"}'
    headers = {"content-type": content_type} if content_type else {}
    seen = httpx.post(stub_server.url + "/v1/echo", content=body, headers=headers).json()
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()
    assert seen["headers"].get("content-type") == content_type


def test_a_multipart_body_arrives_as_sent(stub_server: Server) -> None:
    reply = httpx.post(stub_server.url + "/v1/echo", files={"image": b"\x89PNG"}).json()
    assert reply["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert reply["size"] == int(reply["headers"]["content-length"])


def test_method_path_and_headers_reach_the_service(stub_server: Server) -> None:
    headers = {"X-Amzn-SageMaker-Session-Id": "Abc", "x-edge-method": "DELETE", "url_path": "x"}
    reply = httpx.get(stub_server.url + "/v1/echo?model_name=other", headers=headers)
    seen = reply.json()
    assert (seen["method"], seen["path"], seen["size"]) == ("GET", "/v1/echo", 0)
    assert seen["headers"]["x-amzn-sagemaker-session-id"] == "Abc"
    assert not [name for name in seen["headers"] if name.startswith(("x-edge", "url_", "ts_"))]


def test_the_request_id_is_the_edges_and_is_returned(stub_server: Server) -> None:
    reply = httpx.get(stub_server.url + "/v1/echo", headers={"x-request-id": "forged"})
    assert reply.headers["x-request-id"] == reply.json()["request_id"] != "forged"


def test_status_and_headers_of_a_reply_are_the_services(stub_server: Server) -> None:
    sent = {"x-status": "429", "x-size": "5"}
    reply = httpx.post(stub_server.url + "/v1/answer", headers=sent)
    assert (reply.status_code, reply.content, reply.headers["x-kept"]) == (429, b"aaaaa", "yes")
    inner = {"x-vlm-sessions", "ts_stream_next", "pragma", "expires"}
    assert not inner & set(reply.headers)


def test_a_large_error_reply_arrives_whole(stub_server: Server) -> None:
    sent = {"x-status": "404", "x-size": "20000"}
    reply = httpx.post(stub_server.url + "/v1/answer", headers=sent)
    assert (reply.status_code, len(reply.content)) == (404, 20_000)


def test_an_empty_stream_is_an_empty_reply(stub_server: Server) -> None:
    reply = httpx.post(stub_server.url + "/v1/stream", headers={"x-chunks": "0"})
    assert (reply.status_code, reply.content) == (200, b"")


def test_a_connection_serves_many_requests(stub_server: Server) -> None:
    with httpx.Client(base_url=stub_server.url) as http:
        for _ in range(50):
            assert http.post("/v1/answer", headers={"x-size": "50"}).content == b"a" * 50
            assert http.post("/v1/stream", headers={"x-chunks": "2"}).content == expected_stream(2)


def test_the_service_hears_of_a_client_that_left_while_it_waited(stub_server: Server) -> None:
    request_id = leave_early(stub_server, b"/v1/stream", b"x-chunks: 3\r\nx-delay: 3\r\n")
    heard = httpx.get(stub_server.url + "/v1/aborted", headers={"x-wanted": request_id}, timeout=15)
    assert heard.json() == {"aborted": True}


def leave_early(server: Server, path: bytes, headers: bytes) -> str:
    """Read a reply's first bytes, then disconnect. The request's id."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, headers))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
    lines = head.decode().lower().split("\r\n")
    return next(line.split(": ")[1] for line in lines if line.startswith("x-request-id"))
