"""What the router itself answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from importlib import resources

import httpx
import pytest

from tests.cluster.parts import Fake, Routing, code_of, fakes
from vlm_sessions.cluster.refusals import REFUSALS


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(1, tmp_path_factory.mktemp("state")) as started:
        yield started


def raw(routing: Routing, request: bytes) -> bytes:
    """What comes back on a connection of its own, to its end."""
    host, port = routing.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/fake",
        "/models",
        "/v1",
        "/pings",
        "/endpoints//invocations",
        "//invocations",
    ],
)
def test_an_unknown_path_is_404_in_json_and_reaches_no_replica(
    routing: Routing, replicas: list[Fake], path: str
) -> None:
    before = replicas[0].seen()["received"]
    reply = httpx.post(routing.url + path)
    assert code_of(reply) == (404, "not_found")
    assert reply.headers["Content-Type"] == "application/json"
    assert replicas[0].seen()["received"] == before


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/invocations", "POST"),
        ("DELETE", "/invocations", "POST"),
        ("POST", "/ping", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("DELETE", "/v1/models", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_405_and_tells_the_right_ones(
    routing: Routing, method: str, path: str, allowed: str
) -> None:
    reply = httpx.request(method, routing.url + path)
    assert code_of(reply) == (405, "method_not_allowed")
    assert reply.headers["Allow"] == allowed


def test_metrics_are_haproxys_and_name_each_replica(routing: Routing) -> None:
    reply = httpx.get(routing.url + "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert 'haproxy_server_status{proxy="replicas",server="a",state="UP"} 1' in reply.text


def test_what_is_no_http_is_refused(routing: Routing) -> None:
    assert raw(routing, b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_request_with_two_lengths_is_refused_before_any_replica_sees_it(
    routing: Routing, replicas: list[Fake]
) -> None:
    before = replicas[0].seen()["received"]
    smuggled = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}    "
    )
    assert raw(routing, smuggled).startswith(b"HTTP/1.1 400")
    assert replicas[0].seen()["received"] == before


def test_an_id_cannot_bring_a_header_into_the_question_to_the_replicas(
    routing: Routing, replicas: list[Fake]
) -> None:
    before = replicas[0].seen()["received"]
    for separator in (b"\r\n ", b"\r", b"\n ", b"\x00", b"%0d%0a"):
        request = (
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
            b"X-Amzn-SageMaker-Session-Id: a" + separator + b"X-Evil: 1\r\n\r\n{}"
        )
        assert raw(routing, request).split()[1] == b"400"
    assert replicas[0].seen()["received"] == before


def test_lua_and_configuration_name_only_refusals_that_exist_and_all_of_them() -> None:
    package = resources.files("vlm_sessions.cluster")
    sources = "".join(
        file.read_text() for file in package.iterdir() if file.name.endswith((".lua", ".cfg"))
    )
    sources = re.sub(r"--.*", "", sources)
    named = set(re.findall(r"lua\.(?:refuse |failure\()(\w+)", sources))
    for call in re.findall(r"replies\.refuse\(txn, ([^\n]*)\)", sources):
        named |= set(re.findall(r'"(\w+)"', call))
    assert named == set(REFUSALS)
