"""The journal: SQLite on a thread of its own, awaited from the event loop.

Every write has reached the disk when its coroutine returns (``synchronous=FULL``): a reply may
announce nothing that a power cut could take back. A commit then costs a flush of the disk, so the
thread writes everything that is waiting in one transaction. If that fails, each is tried alone, so
that nobody's bad luck is shared.

    event loop ── _Job ──▶ queue ──▶ thread: BEGIN, jobs…, COMMIT ──▶ futures
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from vlm_sessions.errors import ConfigError, InsufficientStorage, Internal, VlmError
from vlm_sessions.sessions import database
from vlm_sessions.sessions.database import Contents
from vlm_sessions.sessions.migrations import migrate
from vlm_sessions.sessions.session import Session, Tombstone
from vlm_sessions.sessions.state_dir import StateDir

DATABASE_NAME = "journal.sqlite3"
MAX_GROUP = 64
"""Jobs in one transaction, at most: bounds what a failed one repeats."""

MAX_IDLE_LOG_BYTES = 64 * 2**20
"""Of the write-ahead log once its content is in the database."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    done: Future[T]

    def settle(self, connection: sqlite3.Connection) -> Callable[[], None]:
        """Do the work; the result is a call that tells its waiter, for after the commit."""
        return partial(self.done.set_result, self.work(connection))


class Journal:
    """The durable copy of every open session, in one directory that it holds alone."""

    def __init__(self, directory: Path, *, lock_wait_seconds: float = 0.0) -> None:
        self._directory = directory
        self._lock_wait_seconds = lock_wait_seconds
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.num_commits = 0
        """Transactions written since ``open``."""

    async def open(self) -> None:
        """Lock the directory, start the thread and bring the tables up to date.

        Raises:
            ConfigError: another service holds the directory, it cannot be written, or a newer
                release wrote it.
        """
        assert self._thread is None, "open() is called once"
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="journal", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wrap_future(started)
        except BaseException:
            self._thread = None
            raise

    async def close(self) -> None:
        """Finish what was asked for, then let go of the directory."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        await asyncio.to_thread(thread.join)

    async def load(self) -> Contents:
        """All open sessions and tombstones, without the images' bytes."""
        return await self._submit(database.read_all)

    async def add(self, session: Session, contents: Mapping[str, bytes]) -> None:
        """Write a session that was just opened, or forked from one that is open.

        Args:
            contents: digest -> encoded bytes of its images, but for those that a session of the
                same owner is sure to have.
        """
        await self._submit(
            partial(database.insert_session, session=session, contents=dict(contents))
        )

    async def append(self, before: Session, after: Session, contents: Mapping[str, bytes]) -> None:
        """Write what a turn added: ``after`` is ``before`` and one turn more."""
        await self._submit(
            partial(database.insert_turn, before=before, after=after, contents=dict(contents))
        )

    async def rewind(self, before: Session, after: Session) -> None:
        """Remove what was taken back: ``after`` is ``before`` without its last turns."""
        await self._submit(partial(database.delete_turns, before=before, after=after))

    async def touch(self, session: Session) -> None:
        """Write a renewed lifetime."""
        await self._submit(partial(database.update_lifetime, session=session))

    async def end(self, tombstone: Tombstone) -> None:
        """Remove what a session held and remember that it ended."""
        await self._submit(partial(database.end_session, tombstone=tombstone))

    async def forget(self, ended_before: float) -> None:
        """Remove tombstones older than this."""
        await self._submit(partial(database.delete_tombstones, ended_before=ended_before))

    async def read_image(self, digest: str, owner: str | None = None) -> bytes:
        """The encoded bytes of an image that an open session of this owner has."""
        return await self._submit(partial(database.read_image, digest=digest, owner=owner))

    async def _submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Have ``work`` done on the thread; it is done even if the caller is cancelled.

        Raises:
            InsufficientStorage: the disk is full or refuses to write; nothing was changed.
            Internal: SQLite failed otherwise; nothing was changed.
        """
        if self._thread is None:
            raise Internal("The journal is closed.")
        job = _Job(work, Future[T]())
        self._jobs.put(job)  # type: ignore[arg-type]  # a queue of jobs of any result
        return await asyncio.wrap_future(job.done)

    # --- on the thread --------------------------------------------------------------------------

    def _run(self, started: Future[None]) -> None:
        try:
            state_dir = StateDir.acquire(self._directory, wait_seconds=self._lock_wait_seconds)
        except Exception as exc:  # noqa: BLE001  # the waiter raises it
            started.set_exception(exc)
            return
        try:
            try:
                connection = _prepare(state_dir)
            except Exception as exc:  # noqa: BLE001  # the waiter raises it
                started.set_exception(exc)
                return
            with closing(connection):
                started.set_result(None)
                self._serve(connection)
        finally:
            state_dir.release()

    def _serve(self, connection: sqlite3.Connection) -> None:
        open_for_work = True
        while open_for_work:
            group: list[_Job[object]] = []
            job = self._jobs.get()
            while job is not None:
                # From here on a caller that gives up no longer stops the write.
                if job.done.set_running_or_notify_cancel():
                    group.append(job)
                if len(group) == MAX_GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            open_for_work = job is not None
            if not self._commit(connection, group):
                for alone in group:
                    self._commit(connection, [alone])

    def _commit(self, connection: sqlite3.Connection, group: list[_Job[object]]) -> bool:
        """Do a group of jobs in one transaction. False: nothing was done, try each alone."""
        if not group:
            return True
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = [job.settle(connection) for job in group]
            connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001  # translated and given to the waiter
            if connection.in_transaction:  # SQLite itself has rolled back after some errors
                # If even this fails, later jobs fail one by one, and are told. The thread lives on.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if len(group) == 1:
                group[0].done.set_exception(_translate(exc))
            return len(group) == 1
        self.num_commits += 1
        for answer in answers:
            answer()
        return True


def _prepare(state_dir: StateDir) -> sqlite3.Connection:
    """A connection to the journal, made or brought up to date.

    Raises:
        ConfigError: it cannot be read or written, or a newer release wrote it.
    """
    try:
        with ExitStack() as stack:
            path = state_dir.create_private(DATABASE_NAME)
            connection = stack.enter_context(closing(_connect(path)))
            migrate(connection)
            stack.pop_all()
            return connection
    except (sqlite3.Error, OSError) as exc:
        raise ConfigError(
            f"The journal in {state_dir.path} cannot be used: {exc}. See to its disk, or set "
            "VLM_STATE_DIR to another directory."
        ) from exc


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are begun and ended by hand. One thread uses the connection.
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        # A closed session's pictures are overwritten where that costs no extra writing.
        "secure_delete = FAST",
        # After a burst of large pictures the log gives its room back.
        f"journal_size_limit = {MAX_IDLE_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _translate(exc: Exception) -> Exception:
    if isinstance(exc, VlmError):
        return exc
    if isinstance(exc, sqlite3.OperationalError):
        primary = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            error: VlmError = InsufficientStorage(
                "The session journal cannot be written: its disk is full or failing. "
                "Give VLM_STATE_DIR more room; closing sessions needs some as well."
            )
            error.__cause__ = exc
            return error
    error = Internal("The session journal failed.")
    error.__cause__ = exc
    return error
