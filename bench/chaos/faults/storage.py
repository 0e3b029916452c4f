"""The state directory's disk is full, or slow."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psutil

from bench.chaos.disk import filled
from bench.chaos.faults.base import (
    DISK_CODES,
    GONE_CODES,
    HOUR,
    NOTHING,
    RESTART_SECONDS,
    Recovery,
    Scene,
)
from bench.chaos.faults.processes import KILL_WORKER
from bench.chaos.stack import POLL_SECONDS, NotRecovered, Role, Stack

MAX_LOCKED_SECONDS = 2.5
"""SQLite waits twice as long for a lock before it gives up."""


@dataclass(frozen=True, slots=True)
class FillDisk:
    """No room for the journal: on a small disk that is filled, or, where none could be mounted, by
    forbidding the worker, which writes the journal, to write to any file."""

    name: str = "disk full"
    allowed: frozenset[str] = DISK_CODES
    cost: float = 0.5
    limit: float | None = None
    lasts: bool = True

    async def strike(self, scene: Scene) -> Recovery:
        way = filled(scene.stack.state) if scene.has_small_disk else _no_file_grows(scene.stack)
        with way:
            await asyncio.sleep(scene.some_seconds())
            if await scene.stack.ping() is None:
                raise NotRecovered("a full disk ends the service, which a restart would not help")
        room = time.time()
        note = "a full disk" if scene.has_small_disk else "a file size limit on the worker"
        return Recovery(await scene.stack.wait_serving() - room, note=note)


@contextmanager
def _no_file_grows(stack: Stack) -> Iterator[None]:
    worker = stack.find(Role.WORKER)
    soft, hard = worker.rlimit(psutil.RLIMIT_FSIZE)
    worker.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        worker.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


@dataclass(frozen=True, slots=True)
class SlowJournal:
    """Somebody else holds the journal's write lock: what must be recorded waits, and no more."""

    name: str = "slow journal"
    allowed: frozenset[str] = NOTHING
    cost: float = 0.2
    limit: float | None = None
    lasts: bool = True

    async def strike(self, scene: Scene) -> Recovery:
        seconds = min(scene.some_seconds(), MAX_LOCKED_SECONDS)
        await asyncio.to_thread(_hold_lock, scene.stack, seconds)
        released = time.time()
        return Recovery(await scene.stack.wait_serving() - released)


def _hold_lock(stack: Stack, seconds: float) -> None:
    with closing(sqlite3.connect(stack.journal, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            time.sleep(seconds)
        finally:
            connection.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class RestartOnFullDisk:
    """The worker dies while there is no room, an hour after sessions were last closed: what starts
    then would like to forget them, cannot, and must serve what needs no room all the same."""

    name: str = "kill worker on a full disk"
    allowed: frozenset[str] = GONE_CODES | DISK_CODES
    cost: float = 7.0
    limit: float | None = RESTART_SECONDS
    lasts: bool = False

    async def strike(self, scene: Scene) -> Recovery:
        stack = scene.stack
        if not scene.has_small_disk:
            return await KILL_WORKER.strike(scene)
        stack.clock.set(HOUR)
        try:
            with filled(stack.state) as refill:
                return await _meanwhile(refill, KILL_WORKER.strike(scene))
        finally:
            stack.clock.set(0)


async def _meanwhile(refill: Callable[[], None], striking: Awaitable[Recovery]) -> Recovery:
    """A start begins its logs anew, which makes room; it is taken away again."""

    async def keep_full() -> None:
        while True:
            refill()
            await asyncio.sleep(POLL_SECONDS)

    filling = asyncio.create_task(keep_full())
    try:
        return await striking
    finally:
        filling.cancel()
