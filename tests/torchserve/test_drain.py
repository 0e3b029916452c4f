"""The way out: SIGTERM lets what runs finish, refuses what is new, ends in time whatever hangs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.torchserve.server import Server, serving, wait_gone
from tests.torchserve.test_transport import expected_stream
from vlm_sessions.config import DRAINED_MARK

SLACK_SECONDS = 15.0
"""What a busy machine may add to any promise."""


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def terminate(server: Server) -> float:
    server.process.send_signal(signal.SIGTERM)
    return time.monotonic()


def status(server: Server, path: str) -> int:
    return httpx.get(server.url + path, timeout=10).status_code


def run_dir(server: Server) -> Path:
    """The supervisor's private directory."""
    config = next(part for part in server.java().cmdline() if part.endswith("config.properties"))
    return Path(config).parent


def test_a_running_stream_finishes_and_new_work_is_refused_meanwhile(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        headers = {"x-chunks": "40", "x-delay": "0.1"}
        with httpx.stream("POST", server.url + "/v1/stream", headers=headers) as reply:
            chunks = reply.iter_raw()
            received = next(chunks)
            terminate(server)
            server.wait_for_line("Draining: ", 5)
            assert status(server, "/ping") == 503
            refused = httpx.post(server.url + "/v1/answer")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            received += b"".join(chunks)
        assert server.process.wait(SLACK_SECONDS) == 0
    assert received == expected_stream(40)


def test_during_the_notice_ping_fails_and_nothing_is_refused_yet(
    stub_store: Path, tmp_path: Path
) -> None:
    notice = 3.0
    with serving(stub_store, tmp_path, drain_notice_seconds=str(notice)) as server:
        begun = terminate(server)
        wait_until(lambda: status(server, "/ping") == 503)
        served = status(server, "/v1/answer")
        in_time = time.monotonic() - begun < notice
        assert served == 200 or not in_time
        assert server.process.wait(notice + SLACK_SECONDS) == 0
        assert time.monotonic() - begun >= notice


def test_a_client_that_reads_slowly_gets_what_the_worker_wrote_before_it_was_done(
    stub_store: Path, tmp_path: Path
) -> None:
    headers = {"x-chunks": "40", "x-size": "100000"}
    with serving(stub_store, tmp_path) as server:
        with httpx.stream("POST", server.url + "/v1/stream", headers=headers) as reply:
            chunks = reply.iter_raw()
            received = next(chunks)
            drained = run_dir(server) / DRAINED_MARK
            terminate(server)
            # It is gone with the supervisor, once the kernel has taken all that is to be read.
            wait_until(lambda: drained.exists() or not drained.parent.exists(), SLACK_SECONDS)
            received += b"".join(chunks)
        assert received == expected_stream(40, 100_000)
        assert server.process.wait(SLACK_SECONDS) == 0


def test_an_answer_that_takes_longer_than_the_drain_ends_in_an_error(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path, drain_seconds="1") as server:
        replies: list[httpx.Response] = []
        waiting = threading.Thread(
            target=lambda: replies.append(
                httpx.get(server.url + "/v1/wait", headers={"x-delay": "60"}, timeout=60)
            )
        )
        waiting.start()
        wait_until(lambda: httpx.get(server.url + "/v1/waiting").json() == {"num_waiting": 1})
        terminate(server)
        assert server.process.wait(1 + SLACK_SECONDS) == 0
        waiting.join(5)
    (reply,) = replies
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert reply.headers["retry-after"] == "1"


def test_who_asks_after_the_last_answer_is_refused_until_the_edge_lets_nobody_in(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        drained = run_dir(server) / DRAINED_MARK
        headers = {"x-chunks": "40", "x-delay": "0.1"}
        with httpx.stream("POST", server.url + "/v1/stream", headers=headers) as reply:
            terminate(server)
            wait_until(lambda: status(server, "/ping") == 503)
            server.process.send_signal(signal.SIGSTOP)  # it will be late to close the edge
            try:
                reply.read()
                wait_until(drained.exists)
                late = httpx.post(server.url + "/v1/answer")
            finally:
                server.process.send_signal(signal.SIGCONT)
        assert server.process.wait(SLACK_SECONDS) == 0
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize("part", ["worker", "java"])
def test_a_part_that_hangs_cannot_hold_up_the_end(
    stub_store: Path, tmp_path: Path, part: str
) -> None:
    with serving(stub_store, tmp_path, drain_seconds="1") as server:
        processes = server.descendants()
        (server.worker() if part == "worker" else server.java()).suspend()
        terminate(server)
        assert server.process.wait(6 + SLACK_SECONDS) == 0
        assert not wait_gone(processes)


def test_a_second_signal_ends_what_runs(stub_store: Path, tmp_path: Path) -> None:
    with serving(stub_store, tmp_path) as server:
        headers = {"x-chunks": "1000", "x-delay": "0.1"}
        with httpx.stream("POST", server.url + "/v1/stream", headers=headers) as reply:
            chunks = reply.iter_raw()
            next(chunks)
            begun = terminate(server)
            server.wait_for_line("Draining", 5)
            terminate(server)
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in chunks:
                    pass
        assert server.process.wait(SLACK_SECONDS) == 0
        assert time.monotonic() - begun < 20, "it did not wait for the drain's 25 s"


def test_sigterm_while_torchserve_restarts_ends_the_service_soon(
    stub_store: Path, tmp_path: Path
) -> None:
    with serving(stub_store, tmp_path) as server:
        server.worker().kill()
        server.wait_for_line("starting it again", 5)
        begun = terminate(server)
        assert server.process.wait(SLACK_SECONDS) == 0
        assert time.monotonic() - begun < 10
        assert "starting it again" not in "".join(server.lines).partition("Stopping.")[2]
