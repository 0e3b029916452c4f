"""The journal without its thread, on a disk that fails when it is told to.

Database, transactions and the grouping of writes are the product's, and SQLite is real. Simulated
are the thread, whose work is done in the loop some moments later, and the errors of the disk, which
SQLite would raise at the same places. A power cut is not: nothing is flushed here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

from tests.simulation.loop import SimulatedLoop, until
from vlm_sessions.sessions.journal import Journal, closed, prepare
from vlm_sessions.sessions.state_dir import StateDir
from vlm_sessions.sessions.writer import MAX_GROUP, Job, JournalWriter

T = TypeVar("T")


class Disk:
    """What befalls the journals of a service, one after another."""

    def __init__(self, random: Random) -> None:
        self.is_full = False
        self.failure_rate = 0.0
        """Of each statement."""
        self.write_seconds = 0.01
        """What a transaction takes, at most."""
        self.num_failures = 0
        self.num_left: int | None = None
        """Statements until the machine goes down."""
        self.on_crash: Callable[[], None] = lambda: None
        self._random = random

    def heal(self) -> None:
        self.is_full = False
        self.failure_rate = 0.0
        self.write_seconds = 0.01
        self.num_left = None

    @property
    def is_well(self) -> bool:
        return not self.is_full and not self.failure_rate and self.write_seconds < 0.1

    def before(self, statement: str) -> None:
        """Called before each statement. A full disk takes what changes nothing.

        Raises:
            sqlite3.OperationalError: the disk refuses it.
        """
        if self.num_left is not None:
            self.num_left -= 1
            if self.num_left < 0:
                self.num_left = None
                self.on_crash()
        is_write = statement.startswith(("INSERT", "UPDATE", "DELETE"))
        is_full = self.is_full and is_write
        if is_full or self._random.random() < self.failure_rate:
            self.num_failures += 1
            error = sqlite3.OperationalError("the disk refuses")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_IOERR
            raise error


class _Connection:
    """The calls of ``sqlite3.Connection`` that the journal makes, by way of a disk."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        self._disk.before(statement)
        return self._connection.execute(statement, tuple(values))

    def executemany(self, statement: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        self._disk.before(statement)
        return self._connection.executemany(statement, rows)


class SimulatedJournal(Journal):
    """A ``Journal`` in a loop whose time is simulated."""

    def __init__(self, directory: Path, loop: SimulatedLoop, random: Random, disk: Disk) -> None:
        super().__init__(directory)
        self._loop = loop
        self._random = random
        self._disk = disk
        self._waiting: list[Job[object]] = []
        self._is_writing = self._is_closing = False
        self._opened: tuple[StateDir, sqlite3.Connection] | None = None

    async def open(self) -> None:
        state_dir = StateDir.acquire(self._directory)
        connection = prepare(state_dir)
        connection.execute("PRAGMA synchronous = OFF")
        self._opened = state_dir, connection
        self._writer = JournalWriter(cast(sqlite3.Connection, _Connection(connection, self._disk)))

    async def close(self) -> None:
        self._is_closing = True
        await until(lambda: not self._waiting)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files, as a process does that is gone."""
        if self._opened is not None:
            state_dir, connection = self._opened
            self._opened = None
            connection.close()
            state_dir.release()

    async def _submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._opened is None or self._is_closing:
            raise closed()
        job = Job(work, Future[T]())
        self._waiting.append(job)  # type: ignore[arg-type]  # a list of jobs of any result
        self._write_soon()
        return await asyncio.wrap_future(job.done)

    def _write_soon(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            seconds = self._random.uniform(0, self._disk.write_seconds)
            self._loop.call_later(seconds, self._write)

    def _write(self) -> None:
        self._is_writing = False
        if self._opened is None:
            return
        num_jobs = min(MAX_GROUP, self._random.randint(1, max(1, len(self._waiting))))
        group, self._waiting = self._waiting[:num_jobs], self._waiting[num_jobs:]
        assert self._writer is not None
        self._writer.write([job for job in group if job.done.set_running_or_notify_cancel()])
        if self._waiting:
            self._write_soon()
