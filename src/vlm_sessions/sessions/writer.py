"""The journal's transactions: jobs in, their answers out. It belongs to one thread, which it does
not know; ``journal.py`` has the thread, and the connection's file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from vlm_sessions.errors import InsufficientStorage, Internal, VlmError

MAX_GROUP = 64
"""Jobs in one transaction, at most: bounds what a failed one repeats."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Something to be done with the journal inside a transaction, and who waits for it."""

    work: Callable[[sqlite3.Connection], T]
    done: Future[T]

    def settle(self, connection: sqlite3.Connection) -> Callable[[], None]:
        """Do the work; the result is a call that tells its waiter, for after the commit."""
        return partial(self.done.set_result, self.work(connection))


class JournalWriter:
    """Does groups of jobs, each group in one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.num_commits = 0

    def write(self, group: Sequence[Job[object]]) -> None:
        """Do these jobs and tell their waiters. If they fail together, each is tried alone."""
        if not self._commit(group):
            for alone in group:
                self._commit([alone])

    def _commit(self, group: Sequence[Job[object]]) -> bool:
        """Do a group of jobs in one transaction. False: nothing was done, try each alone."""
        if not group:
            return True
        connection = self._connection
        try:
            if connection.in_transaction:  # what could not be rolled back is not to be committed
                connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            answers = [job.settle(connection) for job in group]
            connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001  # translated and given to the waiter
            if connection.in_transaction:  # SQLite itself has rolled back after some errors
                # If even this fails, it is tried again before the next job. The thread lives on.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if len(group) == 1:
                group[0].done.set_exception(_translate(exc))
            return len(group) == 1
        self.num_commits += 1
        for answer in answers:
            answer()
        return True


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
