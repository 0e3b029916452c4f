"""The journal: what it keeps, how it keeps it private, what happens when it cannot."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from tests.unit.sessions.test_session import make_session, make_turn
from vlm_sessions.errors import ConfigError, Draining, InsufficientStorage, Internal, SessionClosed
from vlm_sessions.sessions.journal import DATABASE_NAME, MAX_IDLE_LOG_BYTES, Journal
from vlm_sessions.sessions.migrations import MIGRATIONS, migrate
from vlm_sessions.sessions.session import (
    ImagePlace,
    Session,
    SessionImage,
    SessionState,
    Tombstone,
    end_session,
    open_session,
)
from vlm_sessions.sessions.writer import Job, JournalWriter


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "state")
    await journal.open()
    yield journal
    await journal.close()


async def reopened(journal: Journal, tmp_path: Path) -> Journal:
    await journal.close()
    again = Journal(tmp_path / "state")
    await again.open()
    return again


def session_with(*digests: str) -> Session:
    images = tuple(SessionImage(digest, 3, 4, 5, "PNG") for digest in digests)
    return open_session(
        model="m", now=1.0, idle_seconds=9, max_seconds=99, system="s", images=images
    )


def stored_digests(tmp_path: Path) -> set[str]:
    with sqlite3.connect(tmp_path / "state" / DATABASE_NAME) as connection:
        return {digest for (digest,) in connection.execute("SELECT digest FROM images")}


async def test_a_session_comes_back_as_it_was(journal: Journal, tmp_path: Path) -> None:
    session = session_with("d1", "d2")
    await journal.add(session, {"d1": b"one", "d2": b"two"})
    new = SessionImage("d3", 1, 1, 1, "JPEG")
    after = session.with_turn(make_turn(1), images=(new,), system="other", now=5.0)
    await journal.append(session, after, {"d3": b"three"})
    last = after.with_turn(make_turn(2), images=(), system="other", now=6.0)
    await journal.append(after, last, {})

    again = await reopened(journal, tmp_path)
    try:
        assert (await again.load()).sessions == (last,)
        assert await again.read_image("d3") == b"three"
    finally:
        await again.close()


async def test_files_belong_to_the_user_alone(journal: Journal, tmp_path: Path) -> None:
    await journal.add(make_session(), {})
    directory = tmp_path / "state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert len(modes) == 4  # lock, database, write-ahead log, its index
    assert set(modes.values()) == {0o600}


async def test_a_second_service_on_the_same_directory_is_refused(
    journal: Journal, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Another service uses"):
        await Journal(tmp_path / "state").open()
    again = await reopened(journal, tmp_path)  # free once the first has closed
    await again.close()


async def test_a_journal_of_a_newer_release_is_refused(journal: Journal, tmp_path: Path) -> None:
    await journal.close()
    with sqlite3.connect(tmp_path / "state" / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="version 99"):
        await Journal(tmp_path / "state").open()


async def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="VLM_STATE_DIR"):
        await Journal(tmp_path / "file").open()


async def test_bytes_of_an_image_go_with_the_last_session_that_has_it(
    journal: Journal, tmp_path: Path
) -> None:
    first, second = session_with("shared", "own"), session_with("shared")
    await journal.add(first, {"shared": b"s", "own": b"o"})
    await journal.add(second, {"shared": b"s"})
    await journal.end(end_session(first, SessionState.CLOSED, 2.0))
    assert stored_digests(tmp_path) == {"shared"}
    await journal.end(end_session(second, SessionState.EXPIRED, 2.0))
    assert stored_digests(tmp_path) == set()
    with pytest.raises(SessionClosed):  # not of a bug, is told who still works with it
        await journal.read_image("shared")


async def test_an_ended_session_leaves_only_its_tombstone(journal: Journal, tmp_path: Path) -> None:
    session = session_with()
    await journal.add(session, {})
    after = session.with_turn(make_turn(1), images=(), system="s", now=2.0)
    await journal.append(session, after, {})
    await journal.end(end_session(session, SessionState.CLOSED, 3.0))
    contents = await journal.load()
    assert contents.sessions == ()
    assert contents.tombstones == (Tombstone(session.id, SessionState.CLOSED, 3.0),)
    with sqlite3.connect(tmp_path / "state" / DATABASE_NAME) as connection:
        assert connection.execute("SELECT count(*) FROM turns").fetchone() == (0,)
        assert connection.execute("SELECT system FROM sessions").fetchone() == (None,)
    await journal.forget(3.5)
    assert (await journal.load()).tombstones == ()


async def test_what_was_taken_back_is_gone_and_nobody_elses_images_with_it(
    journal: Journal, tmp_path: Path
) -> None:
    session, other = session_with("opening"), session_with("shared")
    await journal.add(session, {"opening": b"o"})
    await journal.add(other, {"shared": b"s"})
    images = tuple(SessionImage(digest, 1, 1, 1, "PNG") for digest in ("shared", "own", "opening"))
    places = tuple(ImagePlace(image.digest, n, 1) for n, image in enumerate(images))
    first = session.with_turn(
        make_turn(1, places=(ImagePlace("opening", 0, 1),)), images=(), system="t", now=2.0
    )
    await journal.append(session, first, {})
    second = first.with_turn(make_turn(2, places=places), images=images, system="t", now=3.0)
    await journal.append(first, second, {"shared": b"s", "own": b"x"})
    before = await journal.load()

    back = second.rewound(1, 4.0)
    await journal.rewind(second, back)
    assert set((await journal.load()).sessions) == {back, other}
    assert stored_digests(tmp_path) == {"opening", "shared"}
    start = back.rewound(1, 5.0)
    await journal.rewind(back, start)
    again = await reopened(journal, tmp_path)
    try:
        assert set((await again.load()).sessions) == {start, other}
        assert start.system == "s", "as it was opened"
        assert second in before.sessions
    finally:
        await again.close()


async def test_a_fork_shares_the_bytes_of_its_images_until_both_have_ended(
    journal: Journal, tmp_path: Path
) -> None:
    session = session_with("d")
    await journal.add(session, {"d": b"x"})
    after = session.with_turn(make_turn(1), images=(), system="s", now=2.0)
    await journal.append(session, after, {})
    fork = after.forked(now=3.0, idle_seconds=9, max_seconds=99)
    await journal.add(fork, {})
    assert set((await journal.load()).sessions) == {after, fork}
    await journal.end(end_session(after, SessionState.CLOSED, 4.0))
    assert (await journal.load()).sessions == (fork,)
    assert await journal.read_image("d") == b"x"
    await journal.end(end_session(fork, SessionState.CLOSED, 5.0))
    assert stored_digests(tmp_path) == set()


async def test_a_journal_of_the_first_release_opens(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    with sqlite3.connect(tmp_path / "state" / DATABASE_NAME) as connection:
        migrate(connection, MIGRATIONS[:1])
        connection.execute(
            "INSERT INTO sessions VALUES ('old', 'm', 'open', 1, 2, 3, 4, 5, 'be brief', 1, NULL)"
        )
        connection.execute("INSERT INTO images VALUES ('d', x'00')")
        connection.execute("INSERT INTO session_images VALUES ('old', 0, 'd', 3, 4, 5, 'PNG')")
    connection.close()
    journal = Journal(tmp_path / "state")
    await journal.open()
    try:
        (session,) = (await journal.load()).sessions
        assert (session.id, session.created_at, session.idle_seconds) == ("old", 1, 5)
        assert (session.system, session.opening_system) == ("be brief", "be brief")
        assert session.pending_images == (SessionImage("d", 3, 4, 5, "PNG"),)
        await journal.end(end_session(session, SessionState.CLOSED, 3.0))
    finally:
        await journal.close()
    with sqlite3.connect(tmp_path / "state" / DATABASE_NAME) as connection:
        texts = "SELECT system, opening_system FROM sessions"
        assert connection.execute(texts).fetchone() == (None, None)


async def test_a_turn_of_a_session_that_ended_is_refused(journal: Journal) -> None:
    session = session_with()
    await journal.add(session, {})
    await journal.end(end_session(session, SessionState.CLOSED, 3.0))
    after = session.with_turn(make_turn(1), images=(), system="s", now=4.0)
    with pytest.raises(SessionClosed):
        await journal.append(session, after, {})


async def test_a_full_disk_is_told_and_changes_nothing(journal: Journal) -> None:
    kept = session_with("d")
    await journal.add(kept, {"d": b"x"})

    def fill(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await journal._submit(fill)
    with pytest.raises(InsufficientStorage):
        await journal.add(session_with("big"), {"big": bytes(1_000_000)})
    assert (await journal.load()).sessions == (kept,)
    await journal.touch(kept.used(3.0))  # and what needs no room goes on


_OPEN_ON_A_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from vlm_sessions.errors import ConfigError
from vlm_sessions.sessions.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # files can be made, and take no byte
try:
    asyncio.run(Journal(Path(sys.argv[1])).open())
except ConfigError as exc:
    print(exc)
"""


def test_a_journal_that_cannot_be_made_for_want_of_room_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    opened = subprocess.run(
        [sys.executable, "-c", _OPEN_ON_A_FULL_DISK, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"The journal in {directory} cannot be used: disk I/O error" in opened.stdout
    assert "VLM_STATE_DIR" in opened.stdout


async def test_a_file_that_is_no_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        await Journal(tmp_path).open()


async def test_writes_that_wait_together_share_a_commit_and_a_bad_one_harms_no_other(
    journal: Journal,
) -> None:
    sessions = [session_with() for _ in range(30)]
    before = journal.num_commits
    lonely = session_with()
    orphan = lonely.with_turn(make_turn(1), images=(), system="s", now=2.0)
    results = await asyncio.gather(
        *(journal.add(one, {}) for one in sessions), return_exceptions=True
    )
    assert results == [None] * 30
    assert journal.num_commits - before < 30

    more = [session_with() for _ in range(10)]
    writes = [journal.add(one, {}) for one in more]
    writes.insert(5, journal.append(lonely, orphan, {}))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(results.pop(5), SessionClosed)
    assert results == [None] * 10
    assert len((await journal.load()).sessions) == 40


class BrokenConnection:
    """A database whose disk fails, so that not even a transaction's beginning can be undone."""

    in_transaction = True

    def execute(self, statement: str) -> None:
        if statement != "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError("disk I/O error")


def test_a_failure_that_cannot_be_undone_is_told_and_ends_no_thread() -> None:
    job: Job[object] = Job(lambda connection: None, Future())
    JournalWriter(cast(sqlite3.Connection, BrokenConnection())).write([job])
    assert isinstance(job.done.exception(), Internal)


async def test_who_comes_when_the_journal_is_closed_is_told_to_come_back(
    journal: Journal,
) -> None:
    """Found by the simulation: an open that was fetching its picture when the service stopped was
    told of a bug."""
    await journal.close()
    with pytest.raises(Draining):
        await journal.add(make_session(), {})


class RefusesOneRollback:
    """A real database behind a disk that fails twice: at a statement, and when that is undone."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.num_refused = 0

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str) -> sqlite3.Cursor:
        if statement == "ROLLBACK" and not self.num_refused:
            self.num_refused += 1
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement)


def test_what_could_not_be_undone_at_once_is_undone_before_the_next_write() -> None:
    """Found by the simulation: the next write failed as well, by an error not its own."""

    def write_and_fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO words VALUES ('lost')")
        raise InsufficientStorage("full")

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE words (word TEXT)")
        flaky = RefusesOneRollback(connection)
        writer = JournalWriter(cast(sqlite3.Connection, flaky))
        first: Job[object] = Job(write_and_fail, Future())
        second: Job[object] = Job(
            lambda c: c.execute("INSERT INTO words VALUES ('kept')"), Future()
        )
        writer.write([first])
        writer.write([second])
        assert flaky.num_refused == 1
        assert isinstance(first.done.exception(), InsufficientStorage)
        assert second.done.exception() is None
        assert connection.execute("SELECT word FROM words").fetchall() == [("kept",)]


async def test_the_log_gives_its_room_back_after_large_pictures(journal: Journal) -> None:
    def limit(connection: sqlite3.Connection) -> int:
        (size,) = connection.execute("PRAGMA journal_size_limit").fetchone()
        return int(size)

    assert await journal._submit(limit) == MAX_IDLE_LOG_BYTES
