"""``vlm-sessions cluster`` with fake replicas: start, deaths, rolling updates, stop."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest

from tests.cluster.parts import (
    SESSION,
    START_SECONDS,
    Routing,
    ask,
    code_of,
    command,
    open_session,
    wait_until,
)
from tests.torchserve.server import free_port, wait_gone
from vlm_sessions.cluster.replicas import shared_environment

_RUN = """
import os, sys
from vlm_sessions.cluster import ClusterOptions, run_cluster
from vlm_sessions.config import Settings
options = ClusterOptions(Settings.from_env(os.environ), int(sys.argv[1]), int(sys.argv[2]))
sys.exit(run_cluster(options, [sys.executable, "-m", sys.argv[3]]))
"""
FAKE = "tests.support.fake_replica"
NUM_CLIENTS = 12


@contextmanager
def cluster(
    state_dir: Path, num_replicas: int, num_routers: int = 1, module: str = FAKE
) -> Iterator[Routing]:
    """A cluster that is starting."""
    port = consecutive_free_ports(num_routers)
    environ = {"VLM_PORT": str(port), "VLM_STATE_DIR": str(state_dir)}
    arguments = ["-c", _RUN, str(num_replicas), str(num_routers), module]
    with command(arguments, port, state_dir, environ) as running:
        yield running


def consecutive_free_ports(count: int) -> int:
    """The first of so many."""
    while True:
        first = free_port()
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first


@pytest.fixture
def routing(tmp_path: Path) -> Iterator[Routing]:
    with cluster(tmp_path, 3) as running:
        running.wait_for_line("Ready at", START_SECONDS)
        yield running


def replica(routing: Routing, number: int) -> psutil.Process:
    """The n-th replica's process: the one that was told so in its environment."""
    state_dir = str(routing.state_dir / f"replica-{number}")
    (found,) = [
        process
        for process in routing.descendants()
        if process.environ().get("VLM_STATE_DIR") == state_dir
    ]
    return found


def test_it_starts_each_replica_on_a_port_and_state_directory_of_its_own(routing: Routing) -> None:
    environs = [replica(routing, number).environ() for number in (1, 2, 3)]
    ports = {environ["VLM_PORT"] for environ in environs}
    assert len(ports) == 3
    assert port_of(routing) not in ports
    assert {environ["VLM_HOST"] for environ in environs} == {"127.0.0.1"}
    assert {environ["VLM_DRAIN_NOTICE_SECONDS"] for environ in environs} == {"3.0"}
    assert {environ["VLM_THREADS"] for environ in environs} == {
        str(max(1, len(os.sched_getaffinity(0)) // 6))
    }
    assert (routing.state_dir / "replica-3" / "sessions.jsonl").exists()
    assert sum("Ready at" in line for line in routing.lines) == 1


def test_what_the_user_has_set_for_all_replicas_stays() -> None:
    told = shared_environment({"VLM_THREADS": "3", "VLM_DRAIN_NOTICE_SECONDS": "0.5"}, 2)
    assert (told["VLM_THREADS"], told["VLM_DRAIN_NOTICE_SECONDS"]) == ("3", "0.5")


def test_a_replica_killed_outright_comes_back_and_its_sessions_live_on(routing: Routing) -> None:
    with httpx.Client(base_url=routing.url, timeout=60) as http:
        sessions = dict(open_session(http) for _ in range(9))
        for session in sessions:
            assert ask(http, session).json()["turn"] == 0
        replica(routing, 2).kill()
        routing.wait_for_line("replica-2 has ended; starting it again", 10)
        wait_until(lambda: times_ready(routing, "replica-2") == 2, START_SECONDS)
        for session, owner in sessions.items():
            assert ask(http, session).json() == {"replica": owner, "turn": 1}


@pytest.mark.slow
async def test_a_rolling_update_under_load_fails_no_request_and_loses_no_session(
    routing: Routing,
) -> None:
    """Each client opens sessions and asks in them, one prompt in three streamed, all the time."""
    is_over = asyncio.Event()
    outcomes: Counter[str] = Counter()
    answered: dict[str, tuple[str, int]] = {}  # session -> its owner, its number of turns

    async def talk(http: aiohttp.ClientSession) -> None:
        while not is_over.is_set():
            session, owner = await opened(http)
            for turn in range(8):
                body = {"type": "prompt", "tokens": 5, "pace": 0.02, "stream": turn % 3 == 2}
                async with http.post(
                    "/invocations", json=body, headers={SESSION: session}
                ) as reply:
                    text = await reply.text()
                    right = f'"turn": {turn}' in text and f'"replica": "{owner}"' in text
                    outcomes[f"{reply.status} {'right' if right else text}"] += 1
                    answered[session] = (owner, turn + 1)
            async with http.post("/invocations", json={"type": "generate"}) as reply:
                outcomes[f"{reply.status} right"] += 1

    async def opened(http: aiohttp.ClientSession) -> tuple[str, str]:
        async with http.post("/invocations", json={"type": "open_session"}) as reply:
            outcomes[f"{reply.status} right"] += 1
            told: dict[str, Any] = await reply.json()
            return told["session_id"], told["replica"]

    before = [replica(routing, number).pid for number in (1, 2, 3)]
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(routing.url, timeout=timeout) as http:
        clients = [asyncio.create_task(talk(http)) for _ in range(NUM_CLIENTS)]
        routing.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(routing.wait_for_line, "All replicas are updated.", 100)
        is_over.set()
        await asyncio.gather(*clients)
        assert set(outcomes) == {"200 right"}
        for session, (owner, num_turns) in answered.items():
            body = {"type": "prompt"}
            async with http.post("/invocations", json=body, headers={SESSION: session}) as reply:
                assert await reply.json() == {"replica": owner, "turn": num_turns}
    after = [replica(routing, number).pid for number in (1, 2, 3)]
    assert not set(before) & set(after)
    assert len({owner for owner, _ in answered.values()}) == 3


def test_stopping_lets_running_answers_finish_and_leaves_nothing_behind(routing: Routing) -> None:
    processes = routing.descendants()
    with httpx.Client(base_url=routing.url, timeout=60) as http:
        session, _ = open_session(http)
        body = {"type": "prompt", "tokens": 40, "pace": 0.1, "stream": True}
        with http.stream("POST", "/invocations", json=body, headers={SESSION: session}) as reply:
            chunks = reply.iter_text()
            text = next(chunks)
            began = time.monotonic()
            routing.process.terminate()
            text += "".join(chunks)
        assert "event: done" in text
    assert routing.process.wait(30) == 0
    assert time.monotonic() - began < 30
    assert not wait_gone(processes)


def test_killing_it_outright_leaves_no_process_behind(routing: Routing) -> None:
    processes = routing.descendants()
    assert len(processes) == 4
    routing.process.kill()
    routing.process.wait()
    assert not wait_gone(processes)


def test_either_of_two_routers_may_die(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, num_routers=2) as routing:
        routing.wait_for_line("Ready at", START_SECONDS)
        second = f"http://127.0.0.1:{int(port_of(routing)) + 1}"
        with httpx.Client(base_url=routing.url, timeout=60) as http:
            sessions = dict(open_session(http) for _ in range(10))
        haproxies = [each for each in routing.descendants() if each.name() == "haproxy"]
        (first,) = [each for each in haproxies if listens(each, int(port_of(routing)))]
        first.kill()
        with httpx.Client(base_url=second, timeout=60) as http:
            for session, owner in sessions.items():
                assert ask(http, session).json() == {"replica": owner, "turn": 0}
        routing.wait_for_line("HAProxy of router-1 has ended; starting it again", 10)
        wait_until(lambda: set(routing.states().values()) == {"ready"})
        with httpx.Client(base_url=routing.url, timeout=60) as http:
            for session, owner in sessions.items():
                assert ask(http, session).json() == {"replica": owner, "turn": 1}
            assert code_of(ask(http, "ts-seq-unknown")) == (404, "session_not_found")


def test_a_replica_that_cannot_start_ends_the_cluster_with_its_reason(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, module="no_such_module") as routing:
        assert routing.process.wait(START_SECONDS) == 1
        wait_until(lambda: "did not start" in routing.lines[-1])
        assert any("No module named no_such_module" in line for line in routing.lines)


def test_a_port_in_use_ends_it_before_any_replica_starts(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as first:
        first.wait_for_line("Ready at", START_SECONDS)
        environ = {"VLM_PORT": port_of(first), "VLM_STATE_DIR": str(tmp_path / "other")}
        arguments = ["-c", _RUN, "1", "1", FAKE]
        with command(arguments, int(port_of(first)), tmp_path, environ) as second:
            assert second.process.wait(START_SECONDS) == 1
            wait_until(lambda: "VLM_PORT" in second.lines[-1])


def test_interrupted_while_it_starts_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as routing:
        routing.wait_for_line("Starting 2 replicas", START_SECONDS)
        wait_until(lambda: len(routing.descendants()) >= 2)
        processes = routing.descendants()
        os.killpg(routing.process.pid, signal.SIGINT)
        assert routing.process.wait(20) == 0
        assert not wait_gone(processes)


def test_closing_its_terminal_ends_it_though_the_signal_is_that_of_an_update(
    tmp_path: Path,
) -> None:
    environ = {
        **os.environ,
        "VLM_PORT": str(consecutive_free_ports(1)),
        "VLM_STATE_DIR": str(tmp_path),
    }
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", _RUN, "1", "1", FAKE], environ)
    process = psutil.Process(child)
    told = b""
    while b"Ready at" not in told:
        told += os.read(terminal, 65536)
    processes = [process, *process.children(recursive=True)]
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not wait_gone(processes[1:])


def times_ready(routing: Routing, name: str) -> int:
    """How often the router has seen it become ready."""
    return sum(line.startswith(f"Replica {name} ") and "is ready" in line for line in routing.lines)


def port_of(routing: Routing) -> str:
    return routing.url.rsplit(":", 1)[1]


def listens(process: psutil.Process, port: int) -> bool:
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port
        for each in process.net_connections(kind="inet")
    )
