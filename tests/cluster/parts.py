"""Fake replicas and real routers as processes, and the few requests that the tests make."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.torchserve.server import Server, running
from vlm_sessions.cluster.ports import Reservation

SESSION = "X-Amzn-SageMaker-Session-Id"
START_SECONDS = 60.0
POLL_SECONDS = 5.0
"""For a router to notice something; it asks every 250 ms, on a machine that may be busy."""


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> float:
    """Return when the condition holds, with the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"it did not happen within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begun


class Fake:
    """A fake replica on a port that stays its own."""

    def __init__(self, name: str, state_dir: Path, **settings: str) -> None:
        self.name = name
        self._port = Reservation.make()
        self.address = self._port.address
        self.url = f"http://{self.address}"
        self._environ = {
            **os.environ,
            "FAKE_NAME": name,
            "VLM_PORT": str(self._port.port),
            "VLM_STATE_DIR": str(state_dir / name),
            **settings,
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_replica"], env=self._environ
        )

    def wait_answering(self) -> None:
        wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(self.url + "/fake", timeout=5)
            return True
        return False

    def restart(self) -> None:
        """Start it again on its port and state."""
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def drain(self) -> None:
        """What a rolling update does first."""
        self.process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def tell_ping(self, **answer: Any) -> None:
        """How it answers /ping from now on: status, code, seconds."""
        httpx.post(self.url + "/fake", json={"ping": answer}, timeout=10).raise_for_status()

    def seen(self) -> dict[str, Any]:
        """What it has received and how many prompts it is answering."""
        reply: dict[str, Any] = httpx.get(self.url + "/fake", timeout=10).json()
        return reply

    def end(self) -> None:
        self.kill()
        self._port.release()


@contextlib.contextmanager
def fakes(count: int, state_dir: Path, **settings: str) -> Iterator[list[Fake]]:
    """So many of them, called a, b, c …"""
    started = [Fake("abcdefgh"[number], state_dir, **settings) for number in range(count)]
    try:
        for fake in started:
            fake.wait_answering()
        yield started
    finally:
        for fake in started:
            fake.end()


@dataclass
class Routing(Server):
    """A running router or cluster."""

    def states(self) -> dict[str, str]:
        """Replica -> its state, as the router's /ping tells it."""
        with contextlib.suppress(httpx.HTTPError):
            told = httpx.get(self.url + "/ping", timeout=5).json()
            states: dict[str, str] = told.get("replicas", {})  # told while one is ready
            return states
        return {}

    def wait_state(self, replica: str, state: str, seconds: float = 20.0) -> float:
        return wait_until(lambda: self.states().get(replica) == state, seconds)

    def haproxy_pid(self) -> int:
        return int(self.find("haproxy -db").pid)

    def admin(self, command: str) -> str:
        """A line to HAProxy's runtime socket."""
        line = next(line for line in self.lines if "admin socket is " in line)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(line.rpartition("admin socket is ")[2].strip())
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@contextlib.contextmanager
def command(
    arguments: Sequence[str], port: int, state_dir: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Routing]:
    """``python ARGUMENTS``, stopped in a hurry in the end."""
    with running(Routing, arguments, port, state_dir, {**os.environ, **(environ or {})}) as routing:
        try:
            yield routing
        finally:
            if routing.process.poll() is None:
                routing.process.terminate()
                routing.stop(40)  # the second signal hurries
    assert not [line for line in routing.lines if "runtime error" in line]  # Lua's


@contextlib.contextmanager
def router(
    replicas: Sequence[Fake], state_dir: Path, *options: str, port: int | None = None
) -> Iterator[Routing]:
    """A router that sees all its replicas ready."""
    reservation = Reservation.make()
    port = port or reservation.port
    names = [f"--replica={fake.name}={fake.address}" for fake in replicas]
    arguments = ["-m", "vlm_sessions.cli", "router", f"--port={port}", *names, *options]
    try:
        with command(arguments, port, state_dir) as routing:
            routing.wait_for_line("admin socket is", START_SECONDS)
            for fake in replicas:
                routing.wait_state(fake.name, "ready", START_SECONDS)
            yield routing
    finally:
        reservation.release()


def invoke(
    http: httpx.Client, body: Mapping[str, Any], session: str | None = None, **headers: str
) -> httpx.Response:
    if session is not None:
        headers[SESSION] = session
    return http.post("/invocations", json=body, headers=headers)


def open_session(http: httpx.Client) -> tuple[str, str]:
    """A new session's id, and the name of the replica that has it."""
    reply = invoke(http, {"type": "open_session"}).raise_for_status().json()
    return reply["session_id"], reply["replica"]


def open_at(http: httpx.Client, owner: Fake) -> str:
    """A new session of just this replica; others get some as well."""
    for _ in range(100):
        session, replica = open_session(http)
        if replica == owner.name:
            return session
    raise AssertionError(f"{owner.name} gets no session")


def ask(http: httpx.Client, session: str, **options: Any) -> httpx.Response:
    return invoke(http, {"type": "prompt", **options}, session)


def code_of(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return reply.status_code, reply.json()["error"]["code"]
