"""The journal: SQLite on a thread of its own, awaited from the event loop.

Every write has reached the disk when its coroutine returns (``synchronous=FULL``): a reply may
announce nothing that a power cut could take back. A commit then costs a flush of the disk, so the
thread writes everything that is waiting in one transaction. If that fails, each is tried alone, so
that nobody's bad luck is shared.

    event loop ── Job ──▶ queue ──▶ thread: BEGIN, jobs…, COMMIT ──▶ futures
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from vlm_sessions.errors import ConfigError, Draining
from vlm_sessions.sessions import database
from vlm_sessions.sessions.database import Contents
from vlm_sessions.sessions.migrations import migrate
from vlm_sessions.sessions.session import Session, Tombstone
from vlm_sessions.sessions.state_dir import StateDir
from vlm_sessions.sessions.writer import MAX_GROUP, Job, JournalWriter

DATABASE_NAME = "journal.sqlite3"
MAX_IDLE_LOG_BYTES = 64 * 2**20
"""Of the write-ahead log once its content is in the database."""

T = TypeVar("T")


class Journal:
    """The durable copy of every open session, in one directory that it holds alone."""

    def __init__(self, directory: Path, *, lock_wait_seconds: float = 0.0) -> None:
        self._directory = directory
        self._lock_wait_seconds = lock_wait_seconds
        self._jobs: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._writer: JournalWriter | None = None

    @property
    def num_commits(self) -> int:
        """Transactions written since ``open``."""
        return 0 if self._writer is None else self._writer.num_commits

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
            Draining: the journal is closed.
        """
        if self._thread is None:
            raise closed()
        job = Job(work, Future[T]())
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
                connection = prepare(state_dir)
            except Exception as exc:  # noqa: BLE001  # the waiter raises it
                started.set_exception(exc)
                return
            with closing(connection):
                self._writer = JournalWriter(connection)
                started.set_result(None)
                self._serve(self._writer)
        finally:
            state_dir.release()

    def _serve(self, writer: JournalWriter) -> None:
        open_for_work = True
        while open_for_work:
            group: list[Job[object]] = []
            job = self._jobs.get()
            while job is not None:
                # From here on a caller that gives up no longer stops the write.
                if job.done.set_running_or_notify_cancel():
                    group.append(job)
                if len(group) == MAX_GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            open_for_work = job is not None
            writer.write(group)


def closed() -> Draining:
    """What is told to those who come too late: the service is about to end."""
    return Draining("The service is shutting down. Send the request again.")


def prepare(state_dir: StateDir) -> sqlite3.Connection:
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
