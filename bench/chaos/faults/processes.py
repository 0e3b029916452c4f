"""Processes that are killed, stopped and continued."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from bench.chaos.composition import OUT_OF_MEMORY
from bench.chaos.faults.base import (
    EDGE_SECONDS,
    ENGINE_CODES,
    ENGINE_SECONDS,
    GONE_CODES,
    NOTHING,
    ORPHAN_SECONDS,
    RESTART_SECONDS,
    Recovery,
    Scene,
    held,
)
from bench.chaos.stack import NotRecovered, Role, Stack, wait_until
from vlm_sessions.logs import MEMORY_EVENT


@dataclass(frozen=True, slots=True)
class KillEngine:
    """SIGKILL of the engine's process; the worker replaces it."""

    name: str = "kill engine"
    allowed: frozenset[str] = ENGINE_CODES
    cost: float = 4.0
    limit: float | None = ENGINE_SECONDS
    lasts: bool = False

    async def strike(self, scene: Scene) -> Recovery:
        old = scene.stack.find(Role.ENGINE)
        struck = time.time()
        old.kill()
        return await _engine_back(scene.stack, old, struck)


@dataclass(frozen=True, slots=True)
class FillDevice:
    """The next step finds no memory on the device, which ends the engine's process."""

    name: str = "device out of memory"
    allowed: frozenset[str] = ENGINE_CODES
    cost: float = 4.0
    limit: float | None = ENGINE_SECONDS
    lasts: bool = False

    async def strike(self, scene: Scene) -> Recovery:
        old = scene.stack.find(Role.ENGINE)
        old.send_signal(OUT_OF_MEMORY)
        await wait_until(lambda: not _lives(old), "the engine to run out of memory")
        return await _engine_back(scene.stack, old, time.time())


async def _engine_back(stack: Stack, old: psutil.Process, struck: float) -> Recovery:
    spawned = await stack.wait_replaced(Role.ENGINE, old)
    serving = await stack.wait_serving()
    loaded = last_load(stack.log)
    load = loaded - spawned if spawned < loaded < serving else 0.0
    return Recovery(serving - struck, load_seconds=load)


def last_load(log: Path) -> float:
    """When an engine last said that its model is loaded, in seconds since the epoch; 0: never."""
    for line in reversed(log.read_text("utf-8", "replace").splitlines()):
        if f'"{MEMORY_EVENT}"' in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
    return 0.0


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL of a process that the supervisor replaces."""

    role: Role
    cost: float
    limit: float | None
    is_back: Callable[[Stack], Awaitable[float]] = Stack.wait_serving
    allowed: frozenset[str] = GONE_CODES
    lasts: bool = False

    @property
    def name(self) -> str:
        return f"kill {self.role}"

    async def strike(self, scene: Scene) -> Recovery:
        old = scene.stack.find(self.role)
        struck = time.time()
        old.kill()
        await scene.stack.wait_replaced(self.role, old)
        return Recovery(await self.is_back(scene.stack) - struck)


KILL_WORKER = Kill(Role.WORKER, 7.0, RESTART_SECONDS)
KILL_FRONTEND = Kill(Role.FRONTEND, 7.0, RESTART_SECONDS)
# HAProxy is back once it answers, whether or not those behind it can.
KILL_EDGE = Kill(Role.EDGE, 0.5, EDGE_SECONDS, is_back=Stack.wait_reached)


@dataclass(frozen=True, slots=True)
class KillSupervisor:
    """SIGKILL of the supervisor, after which all must be gone; then it is started again."""

    name: str = "kill supervisor"
    allowed: frozenset[str] = GONE_CODES
    cost: float = 9.0
    limit: float | None = ORPHAN_SECONDS
    lasts: bool = False

    async def strike(self, scene: Scene) -> Recovery:
        stack = scene.stack
        below = [each for role, each in stack.processes().items() if role is not Role.SUPERVISOR]
        struck = time.time()
        stack.find(Role.SUPERVISOR).kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, below, timeout=ORPHAN_SECONDS * 6)
        if any(_lives(each) for each in alive):
            raise NotRecovered(f"the supervisor is dead, and {alive} live on")
        gone = time.time()
        await stack.stop()
        await stack.start()
        # What a start takes is told beside, as no promise covers it.
        started = await stack.wait_serving() - gone
        return Recovery(gone - struck + started, load_seconds=started)


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGSTOP, and SIGCONT some seconds later: a machine that stands still. Nobody is told."""

    role: Role
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    @property
    def name(self) -> str:
        return f"stop {self.role}"

    async def strike(self, scene: Scene) -> Recovery:
        process = scene.stack.find(self.role)
        process.suspend()
        recovery = await held(scene, process.resume)
        if not process.is_running():
            raise NotRecovered(f"a {self.role} that was only stopped was replaced")
        return recovery


@dataclass(frozen=True, slots=True)
class Hang:
    """SIGSTOP, and nobody continues it: what hangs is noticed, killed and replaced.

    ``limit`` is the time in which that is noticed and the time in which a dead one is back.
    """

    role: Role
    limit: float | None
    cost: float
    allowed: frozenset[str]
    lasts: bool = False

    @property
    def name(self) -> str:
        return f"hang {self.role}"

    async def strike(self, scene: Scene) -> Recovery:
        old = scene.stack.find(self.role)
        struck = time.time()
        old.suspend()
        if self.role is Role.ENGINE:
            return await _engine_back(scene.stack, old, struck)
        await scene.stack.wait_replaced(self.role, old)
        return Recovery(await scene.stack.wait_serving() - struck)


HANGS = (
    Hang(Role.ENGINE, 65.0 + ENGINE_SECONDS, 70.0, ENGINE_CODES | {"deadline_exceeded"}),
    Hang(Role.WORKER, 30.0 + RESTART_SECONDS, 37.0, GONE_CODES),
    Hang(Role.FRONTEND, 30.0 + RESTART_SECONDS, 37.0, GONE_CODES),
    Hang(Role.EDGE, 30.0 + EDGE_SECONDS, 32.0, GONE_CODES),
)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
