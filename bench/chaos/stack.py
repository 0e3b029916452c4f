"""The service under test: the real stack over ``composition``, with its processes at hand."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.chaos.composition import CLOCK_VARIABLE, JumpingClock
from bench.service import free_port, running_command
from vlm_sessions.serve.packaging import Sources, ensure_packed
from vlm_sessions.sessions.journal import DATABASE_NAME

ROOT = Path(__file__).parents[2]
PROMPT_SECONDS = 30.0
POLL_SECONDS = 0.02
PING_SECONDS = 2.0
GIVE_UP_SECONDS = 180.0
"""For anything to come back. It then has not, and the run is over."""


class Role(StrEnum):
    """Each process of the service."""

    ENGINE = "engine"
    WORKER = "worker"
    FRONTEND = "front end"
    EDGE = "edge"
    SUPERVISOR = "supervisor"


_MARKS = {
    Role.ENGINE: "bench.chaos.composition engine",
    Role.WORKER: "model_service_worker.py",
    Role.FRONTEND: "org.pytorch.serve.ModelServer",
    Role.EDGE: "haproxy -db",
}
"""role -> what its command line has and no other's"""


class NotRecovered(Exception):
    """What was waited for has not come. The message says what."""


class Stack:
    """One service on one state directory, started as often as it is killed.

    Args:
        folder: for the packed model, logs and the clock's file.
        state: the state directory.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        self._folder = folder
        self.state = state
        self.clock = JumpingClock(folder / "clock")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._environ = _environ(folder, state, port, folder / "clock")
        self._running = AsyncExitStack()
        self._supervisor: psutil.Process | None = None
        self.num_starts = 0

    def pack(self) -> None:
        """Pack the handler of ``chaos_handler`` with the built-in model; takes seconds."""
        handler = Path(__file__).with_name("chaos_handler.py")
        ensure_packed(self._folder / "store", Sources(handler=handler))

    async def start(self) -> None:
        """Serve; returns once it is ready.

        Raises:
            ServiceFailed: it ended, or was not ready in time.
        """
        self.num_starts += 1
        command = running_command(["serve"], self.url, self._environ, self.log)
        process = await self._running.enter_async_context(command)
        self._supervisor = psutil.Process(process.pid)

    async def stop(self) -> None:
        """Stop it in order, or take note that it has died."""
        await self._running.aclose()

    @property
    def log(self) -> Path:
        """What the service of the last start has said."""
        return self._folder / f"service-{self.num_starts}.log"

    @property
    def journal(self) -> Path:
        return self.state / DATABASE_NAME

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Read from the journal, beside the service."""
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()

    # --- processes ------------------------------------------------------------------------------

    def processes(self) -> dict[Role, psutil.Process]:
        """Those that run now; while one is being replaced, it is not among them."""
        assert self._supervisor is not None, "started"
        found = {Role.SUPERVISOR: self._supervisor}
        for process in self._supervisor.children(recursive=True):
            try:
                command = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            for role, mark in _MARKS.items():
                if mark in command:
                    found[role] = process
        return found

    def find(self, role: Role) -> psutil.Process:
        """Raises KeyError: there is none just now."""
        return self.processes()[role]

    async def wait_replaced(self, role: Role, old: psutil.Process) -> float:
        """Wait until another process has taken the place of ``old``; when that was, time.time().

        Raises:
            NotRecovered: none has.
        """

        def replaced() -> bool:
            new = self.processes().get(role)
            return new is not None and new != old

        await wait_until(replaced, f"a new {role}")
        return time.time()

    # --- what it says of itself -----------------------------------------------------------------

    async def ping(self) -> dict[str, Any] | None:
        """What /ping says; ``None``: it is not ready, or not there."""
        reply = await self._ask()
        if reply is None or reply.status_code != 200:
            return None
        body: dict[str, Any] = reply.json()
        return body

    async def _ask(self) -> httpx.Response | None:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=PING_SECONDS) as http:
                return await http.get(self.url + "/ping")
        except httpx.TransportError:
            return None

    async def wait_serving(self) -> float:
        """Wait until /ping says that a prompt would be answered; when that was, time.time().

        Raises:
            NotRecovered: it never does.
        """
        return await self._wait_for(lambda reply: reply.status_code == 200, "serve")

    async def wait_reached(self) -> float:
        """Wait until the public port answers, whatever it says; when that was, time.time().

        Raises:
            NotRecovered: it never does.
        """
        return await self._wait_for(lambda _: True, "answer")

    async def _wait_for(self, wanted: Callable[[httpx.Response], bool], what: str) -> float:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while (reply := await self._ask()) is None or not wanted(reply):
            if time.monotonic() > deadline:
                raise NotRecovered(f"the service does not {what} again")
            await asyncio.sleep(POLL_SECONDS)
        return time.time()

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no prompt runs or waits; whether that came in time."""
        deadline = time.monotonic() + seconds
        while True:
            said = await self.ping()
            if said is not None and said["prompts"] == 0:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)

    async def metrics(self) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=PING_SECONDS * 5) as http:
            return (await http.get(self.url + "/metrics")).text


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again.

    Raises:
        NotRecovered: not within ``GIVE_UP_SECONDS``.
    """
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise NotRecovered(f"waited for {what} in vain")
        await asyncio.sleep(POLL_SECONDS)


def _environ(folder: Path, state: Path, port: int, clock: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLM_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),  # what killed supervisors leave behind goes with the folder
        # Asked with SIGQUIT, Java says how many objects of each class live.
        "JAVA_TOOL_OPTIONS": "-XX:+PrintClassHistogram",
        CLOCK_VARIABLE: str(clock),
        "VLM_PORT": str(port),
        "VLM_STATE_DIR": str(state),
        "VLM_MODEL_STORE": str(folder / "store"),
        "VLM_THREADS": "1",
        "VLM_PROMPT_TIMEOUT_SECONDS": f"{PROMPT_SECONDS:g}",
        "VLM_STREAM_TIMEOUT_SECONDS": f"{PROMPT_SECONDS:g}",
        "VLM_SESSION_IDLE_SECONDS": "7200",
        # Faults stop the engine; who is refused for its slowness is for bench.load to look at.
        "VLM_MAX_WAIT_SECONDS": "0",
        # Enough for all that runs, and too little for all that is open: blocks are evicted.
        "VLM_KV_CACHE_MB": "64",
    }
