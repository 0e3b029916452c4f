"""A session belongs to the client that opened it: in memory, in the journal, after a restart."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.unit.sessions.test_session import make_turn
from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    Internal,
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooManySessions,
    VlmError,
)
from vlm_sessions.sessions.journal import DATABASE_NAME, Journal
from vlm_sessions.sessions.migrations import MIGRATIONS, migrate
from vlm_sessions.sessions.session import ImagePlace, Session, SessionImage
from vlm_sessions.sessions.store import SessionStore

ALICE, BOB, NOBODY = "alice", "bob", None
SETTINGS = Settings(
    session_idle_seconds=60,
    session_max_seconds=300,
    tombstone_seconds=100,
    max_sessions=5,
    max_sessions_per_key=2,
)


class Stores:
    """A store, and those that take its journal over."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self._directory = directory
        self.now = self._make()

    def _make(self) -> SessionStore:
        return SessionStore(Journal(self._directory), SETTINGS, self.clock)

    async def restart(self) -> None:
        await self.now.close()
        self.now = self._make()
        await self.now.start()

    async def open(self, owner: str | None, *digests: str) -> Session:
        images = tuple(SessionImage(digest, 3, 4, 1, "PNG") for digest in digests)
        return await self.now.open(
            model="m",
            system=None,
            images=images,
            contents={digest: digest.encode() for digest in digests},
            owner=owner,
        )

    def refusal(self, session: Session, client: str | None) -> type[VlmError] | None:
        try:
            self.now.owned(session.id, client)
        except VlmError as error:
            return type(error)
        return None


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    stores = Stores(tmp_path)
    await stores.now.start()
    yield stores
    await stores.now.close()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("owner", [ALICE, NOBODY])
async def test_a_session_is_unknown_to_all_but_its_owner_to_its_end_and_after(
    stores: Stores, owner: str | None, restarted: bool
) -> None:
    others = {ALICE, BOB, NOBODY} - {owner}
    live, closed, expired = [await stores.open(owner) for _ in range(2)], [], []

    async def expect(sessions: list[Session], told: type[VlmError] | None) -> None:
        if restarted:
            await stores.restart()
        for session in sessions:
            assert stores.refusal(session, owner) is told
            assert {stores.refusal(session, other) for other in others} == {SessionNotFound}

    await expect(live, None)
    closed.append(live.pop())
    await stores.now.end(closed[0].id)
    await expect(closed, SessionClosed)
    expired, live = live, []
    stores.clock.advance(70)
    await expect(expired, SessionExpired)
    await stores.now.sweep()
    await expect(expired, SessionExpired)


async def test_others_are_told_no_more_than_of_an_id_that_never_was(stores: Stores) -> None:
    session = await stores.open(ALICE)
    with pytest.raises(SessionNotFound) as others:
        stores.now.owned(session.id, BOB)
    with pytest.raises(SessionNotFound) as unknown:
        stores.now.owned("ts-seq-" + "0" * 32, BOB)
    assert others.value.message == unknown.value.message


async def test_a_fork_has_its_parents_owner(stores: Stores) -> None:
    fork = await stores.now.fork((await stores.open(ALICE)).id)
    await stores.restart()
    assert stores.refusal(fork, ALICE) is None
    assert stores.refusal(fork, BOB) is SessionNotFound


async def test_each_owner_has_room_for_so_many_also_forks_and_after_a_restart(
    stores: Stores,
) -> None:
    first = await stores.open(ALICE)
    await stores.now.fork(first.id)
    for _ in range(2):
        with pytest.raises(TooManySessions, match=r"2 sessions open, .* for one client") as refused:
            await stores.open(ALICE)
        assert refused.value.retry_after == 1
        with pytest.raises(TooManySessions):
            await stores.now.fork(first.id)
        with pytest.raises(TooManySessions):
            stores.now.check_room(ALICE)
        stores.now.check_room(BOB)
        await stores.restart()
    for owner in (BOB, BOB, NOBODY):
        await stores.open(owner)
    with pytest.raises(TooManySessions, match="VLM_MAX_SESSIONS raises"):
        await stores.open(NOBODY)
    await stores.now.end(first.id)
    await stores.open(ALICE)


async def test_an_owners_sessions_that_are_over_make_room_for_its_next_ones(
    stores: Stores,
) -> None:
    for _ in range(2):
        await stores.open(ALICE)
    stores.clock.advance(61)
    stores.now.check_room(ALICE)
    await stores.open(ALICE)


async def test_an_opening_that_failed_leaves_its_place(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Internal("no")

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "add", fail)
        for _ in range(3):
            with pytest.raises(Internal):
                await stores.open(ALICE)
    for _ in range(2):
        await stores.open(ALICE)


async def test_the_bytes_of_one_picture_are_kept_for_each_owner_apart(
    stores: Stores, tmp_path: Path
) -> None:
    """Kept once for all, a second opening would be quicker, and tell that there was a first."""
    alices, bobs = await stores.open(ALICE, "cat"), await stores.open(BOB, "cat")
    nobodys = await stores.open(NOBODY, "cat")
    again = await stores.open(ALICE, "cat")

    def num_kept() -> int:
        with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
            (count,) = connection.execute("SELECT count(*) FROM images").fetchone()
        return int(count)

    assert num_kept() == 3
    await stores.restart()
    for owner in (ALICE, BOB, NOBODY):
        assert await stores.now.read_image("cat", owner) == b"cat"
    assert stores.now.get(alices.id).images[0].digest == "cat"
    await stores.now.end(alices.id)
    assert num_kept() == 3, "alice has shown it in another session"
    await stores.now.end(again.id)
    with pytest.raises(SessionClosed):
        await stores.now.read_image("cat", ALICE)
    await stores.now.end(nobodys.id)
    assert await stores.now.read_image("cat", BOB) == b"cat"
    await stores.now.end(bobs.id)
    assert num_kept() == 0


async def test_a_turns_images_keep_their_owner_and_go_when_taken_back(
    stores: Stores, tmp_path: Path
) -> None:
    session = await stores.open(ALICE)
    turn = make_turn(1, places=(ImagePlace("dog", 0, 1),))
    image = SessionImage("dog", 3, 4, 1, "PNG")
    await stores.now.append(session, turn, images=(image,), contents={"dog": b"dog"}, system=None)
    await stores.restart()
    assert stores.now.get(session.id).turns[0].digests == ("dog",)
    assert await stores.now.read_image("dog", ALICE) == b"dog"
    await stores.now.rewind(session.id, 1)
    with pytest.raises(SessionClosed):
        await stores.now.read_image("dog", ALICE)


async def test_sessions_of_a_journal_from_before_there_were_keys_have_no_owner(
    tmp_path: Path,
) -> None:
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        migrate(connection, MIGRATIONS[:2])
        row = "('old', 'm', 'open', 1e6, 1e6, 1e7, 1e7, 60, NULL, 1, NULL, NULL)"
        connection.execute(f"INSERT INTO sessions VALUES {row}")
        connection.execute("INSERT INTO images VALUES ('d', x'00')")
        connection.execute("INSERT INTO session_images VALUES ('old', 0, 'd', 3, 4, 5, 'PNG')")
    connection.close()
    stores = Stores(tmp_path)
    await stores.now.start()
    try:
        assert stores.now.owned("old", NOBODY).owner is NOBODY
        assert await stores.now.read_image("d", NOBODY) == b"\0"
        with pytest.raises(SessionNotFound):
            stores.now.owned("old", ALICE)
    finally:
        await stores.now.close()
