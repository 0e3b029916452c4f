"""``vlm-sessions router`` as a process: its HAProxy, its signals, its mistakes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.parts import (
    SESSION,
    START_SECONDS,
    Fake,
    Routing,
    ask,
    command,
    fakes,
    open_session,
    router,
    wait_until,
)
from tests.torchserve.server import wait_gone
from vlm_sessions.cluster.ports import Reservation


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(2, tmp_path_factory.mktemp("state")) as started:
        yield started


def refused(*arguments: str, **environ: str) -> tuple[int, str]:
    """Exit code and stderr of a command that ends by itself."""
    ended = subprocess.run(
        [sys.executable, "-m", "vlm_sessions.cli", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_a_killed_haproxy_is_replaced_within_2_s_and_routes_as_before(
    replicas: list[Fake], tmp_path: Path
) -> None:
    with router(replicas, tmp_path) as routing:
        with httpx.Client(base_url=routing.url, timeout=60) as http:
            sessions = dict(open_session(http) for _ in range(10))
        old = routing.haproxy_pid()
        os.kill(old, signal.SIGKILL)
        routing.wait_for_line("has ended; starting it again", 2)

        def accepts() -> bool:
            try:
                return httpx.get(routing.url + "/ping", timeout=5).status_code in {200, 503}
            except httpx.TransportError:
                return False

        assert wait_until(accepts) < 2
        assert routing.haproxy_pid() != old
        # Its table is gone; a request waits until the replicas have been seen and asked.
        with httpx.Client(base_url=routing.url, timeout=60) as http:
            for session, owner in sessions.items():
                assert ask(http, session).json() == {"replica": owner, "turn": 0}


def test_sigterm_lets_answers_finish_and_takes_no_new_ones(
    replicas: list[Fake], tmp_path: Path
) -> None:
    with router(replicas, tmp_path) as routing, httpx.Client(base_url=routing.url) as http:
        session, _ = open_session(http)
        body = {"type": "prompt", "tokens": 20, "pace": 0.1, "stream": True}
        with http.stream("POST", "/invocations", json=body, headers={SESSION: session}) as reply:
            chunks = reply.iter_text()
            text = next(chunks)
            routing.process.terminate()
            routing.wait_for_line("Stopping.", 5)
            wait_until(lambda: not takes_connections(routing))
            text += "".join(chunks)
        assert "event: done" in text
        assert routing.process.wait(15) == 0


def test_sigterm_answers_who_waits_for_a_restarting_replica(
    replicas: list[Fake], tmp_path: Path
) -> None:
    with router(replicas, tmp_path) as routing:
        with httpx.Client(base_url=routing.url) as http:
            session, owner = open_session(http)
        (restarting,) = [fake for fake in replicas if fake.name == owner]
        restarting.tell_ping(status=503)
        try:
            routing.wait_state(owner, "restarting")
            with socket.create_connection(("127.0.0.1", port_of(routing)), timeout=20) as waiting:
                waiting.sendall(request_bytes(session))
                wait_until(lambda: "fe=router" in routing.admin("show sess"))
                routing.process.terminate()
                reply = b"".join(iter(lambda: waiting.recv(65536), b""))
            assert reply.split()[1] == b"503"
            assert routing.process.wait(15) == 0
        finally:
            restarting.tell_ping(status=200)


def test_a_second_sigterm_hurries(replicas: list[Fake], tmp_path: Path) -> None:
    with router(replicas, tmp_path) as routing:
        with httpx.Client(base_url=routing.url) as http:
            session, owner = open_session(http)
        (answering,) = [fake for fake in replicas if fake.name == owner]
        with socket.create_connection(("127.0.0.1", port_of(routing)), timeout=20) as running:
            running.sendall(request_bytes(session, tokens=600, pace=0.1))
            wait_until(lambda: answering.seen()["prompts"] == 1)
            routing.process.terminate()
            routing.wait_for_line("Stopping.", 5)
            began = time.monotonic()
            routing.process.terminate()
            assert routing.process.wait(15) == 0
            assert time.monotonic() - began < 10


def test_killing_the_supervisor_outright_leaves_no_haproxy(
    replicas: list[Fake], tmp_path: Path
) -> None:
    with router(replicas, tmp_path) as routing:
        processes = routing.descendants()
        assert [process.name() for process in processes] == ["haproxy"]
        routing.process.kill()
        routing.process.wait()
        assert not wait_gone(processes)


def test_nothing_listens_but_the_public_port(replicas: list[Fake], tmp_path: Path) -> None:
    with router(replicas, tmp_path) as routing:
        connections = psutil.Process(routing.haproxy_pid()).net_connections(kind="inet")
        ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
        assert ports == {port_of(routing)}


def test_a_replica_may_be_given_by_its_host_name_alone(
    replicas: list[Fake], tmp_path: Path
) -> None:
    port = Reservation.make()
    address = f"localhost:{replicas[0].address.rpartition(':')[2]}"
    arguments = ["-m", "vlm_sessions.cli", "router", f"--port={port.port}", f"--replica={address}"]
    with command(arguments, port.port, tmp_path) as routing:
        routing.wait_state(address, "ready", START_SECONDS)
    port.release()


def test_an_admin_socket_may_be_given_a_place(replicas: list[Fake], tmp_path: Path) -> None:
    place = tmp_path / "the admin's socket"
    with router(replicas, tmp_path, f"--admin-socket={place}") as routing:
        assert str(place) in "".join(routing.lines)
        assert "Version: 2" in routing.admin("show info")


def test_a_port_in_use_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, told = refused("router", "--replica=127.0.0.1:1", f"--port={port}")
    assert code == 1
    (line,) = told.splitlines()
    assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["router", "--replica=nowhere"], "--replica 'nowhere' is not an address"),
        (["router", "--replica=x:0"], "--replica 'x:0' is not an address"),
        (["router", "--replica=a b:1"], "is not an address"),
        (["router", "--replica=a/b=x:1"], "is not a name"),
        (["router", *(f"--replica=x:{port}" for port in range(1, 66))], "at most 64"),
        (["router", "--replica=x:1", "--replica=x:1"], "given twice"),
        (["router", "--replica=a=x:1", "--replica=a=x:2"], "given twice"),
        (["router", "--replica=x:1", "--peer=b=x:2"], "--listen-peer"),
        (["router", "--replica=x:1", "--listen-peer=x:2", "--peer=x:3"], "NAME=HOST:PORT"),
        (["router", "--replica=x:1", "--listen-peer=x:2", "--peer=router=x:3"], "--name"),
        (["router", "--replica=x:1", "--hold-seconds=-1"], "--hold-seconds"),
        (["cluster", "--replicas=0"], "--replicas is 0"),
        (["cluster", "--replicas=2", "--routers=0"], "--routers is 0"),
        (["cluster", "--replicas=2", "--routers=3", "--port=65534"], "lower --port"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it_and_exit_code_2(
    arguments: list[str], part: str
) -> None:
    code, told = refused(*arguments)
    assert code == 2
    (line,) = told.splitlines()
    assert part in line


def test_an_unknown_setting_is_named_and_exit_code_2() -> None:
    code, told = refused("router", "--replica=x:1", VLM_PROT="1")
    assert code == 2
    assert "VLM_PORT" in told


def port_of(routing: Routing) -> int:
    return int(routing.url.rsplit(":", 1)[1])


def takes_connections(routing: Routing) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(routing)), timeout=5).close()
    except OSError:
        return False
    return True


def request_bytes(session: str, **options: object) -> bytes:
    body = json.dumps({"type": "prompt", **options}).encode()
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{SESSION}: {session}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
