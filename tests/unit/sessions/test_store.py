"""The table of open sessions: limits, lifetimes, ends, restarts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.support.clock import Clock
from tests.unit.sessions.test_session import make_turn
from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    InsufficientStorage,
    MalformedSessionId,
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooFewTurns,
    TooManySessions,
    VlmError,
)
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.session import ImagePlace, Session, SessionImage, Tombstone
from vlm_sessions.sessions.store import SessionStore

SETTINGS = Settings(
    session_idle_seconds=60, session_max_seconds=300, tombstone_seconds=100, max_sessions=3
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SessionStore]:
    store = SessionStore(Journal(tmp_path), SETTINGS, clock)
    await store.start()
    yield store
    await store.close()


async def restarted(store: SessionStore, tmp_path: Path, clock: Clock) -> SessionStore:
    await store.close()
    again = SessionStore(Journal(tmp_path), SETTINGS, clock)
    await again.start()
    return again


async def opened(store: SessionStore) -> Session:
    return await store.open(model="m", system=None, images=(), contents={})


async def with_turn(store: SessionStore, session: Session) -> Session:
    return await store.append(session, make_turn(1), images=(), contents={}, system=None)


async def test_unknown_malformed_closed_and_expired_ids_each_have_their_error(
    store: SessionStore, clock: Clock
) -> None:
    with pytest.raises(SessionNotFound):
        store.get("f" * 32)
    with pytest.raises(MalformedSessionId):
        store.get("not_an_id")
    closed, expired = await opened(store), await opened(store)
    await store.end(closed.id)
    with pytest.raises(SessionClosed):
        store.get(closed.id)
    clock.advance(60)
    with pytest.raises(SessionExpired):
        store.get(expired.id)


async def test_an_ended_session_is_forgotten_after_a_while(
    store: SessionStore, clock: Clock
) -> None:
    closed, expired = await opened(store), await opened(store)
    await store.end(closed.id)
    clock.advance(61)
    assert await store.sweep() == (expired.id,)
    with pytest.raises(SessionExpired):
        store.get(expired.id)
    clock.advance(60)
    await store.sweep()
    with pytest.raises(SessionNotFound):
        store.get(closed.id)
    with pytest.raises(SessionExpired):
        store.get(expired.id)


async def test_a_lifetime_slides_with_use_up_to_the_absolute_maximum(
    store: SessionStore, clock: Clock
) -> None:
    session = await opened(store)
    for _ in range(6):
        clock.advance(49)
        assert await store.sweep() == ()
        touched = await store.touch(session.id)
    assert touched.expires_at == session.created_at + 300
    clock.advance(6)
    assert await store.sweep() == (session.id,)


async def test_a_session_in_use_outlives_its_idle_time_but_not_its_maximum(
    store: SessionStore, clock: Clock
) -> None:
    session = await opened(store)
    store.begin_use(session.id)
    clock.advance(200)
    assert await store.sweep() == ()
    assert store.get(session.id).id == session.id
    clock.advance(101)
    assert await store.sweep() == (session.id,)


async def test_too_many_sessions_are_refused_until_one_ends(
    store: SessionStore, clock: Clock
) -> None:
    sessions = [await opened(store) for _ in range(3)]
    with pytest.raises(TooManySessions) as refused:
        await opened(store)
    assert refused.value.retry_after
    await store.end(sessions[0].id)
    await opened(store)
    clock.advance(61)  # sessions whose time has come make room at once
    await opened(store)
    assert store.num_open == 1


async def test_opens_at_the_same_time_do_not_pass_the_limit_together(store: SessionStore) -> None:
    results = await asyncio.gather(*(opened(store) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(one, TooManySessions) for one in results) == 3
    assert store.num_open == 3


async def test_everything_is_there_after_a_restart(
    store: SessionStore, tmp_path: Path, clock: Clock
) -> None:
    open_one, closed = await opened(store), await opened(store)
    open_one = await with_turn(store, open_one)
    clock.advance(30)
    open_one = await store.touch(open_one.id)
    await store.end(closed.id)
    again = await restarted(store, tmp_path, clock)
    try:
        # what was promised and a little more: the journal's lifetime runs ahead
        assert again.get(open_one.id) == open_one.kept_ahead()
        with pytest.raises(SessionClosed):
            again.get(closed.id)
    finally:
        await again.close()


async def test_sessions_that_expired_while_the_service_was_down_are_expired(
    store: SessionStore, tmp_path: Path, clock: Clock
) -> None:
    session = await opened(store)
    await store.close()
    clock.advance(67)  # the lifetime of 60 s and the journal's margin
    again = await restarted(store, tmp_path, clock)
    try:
        assert again.num_open == 0
        with pytest.raises(SessionExpired):
            again.get(session.id)
    finally:
        await again.close()


async def test_no_announced_lifetime_is_longer_than_the_journal_holds(
    store: SessionStore, tmp_path: Path, clock: Clock
) -> None:
    session = await opened(store)
    journal = store._journal
    for _ in range(40):
        clock.advance(2)
        announced = (await store.touch(session.id)).expires_at
        (kept,) = (await journal.load()).sessions
        assert announced <= kept.expires_at <= announced + 6


async def test_a_renewal_that_the_journal_covers_waits_for_no_disk(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(store)

    async def no_disk(*_: object) -> None:
        raise AssertionError("it was covered")

    monkeypatch.setattr(store._journal, "touch", no_disk)
    clock.advance(5)
    assert (await store.touch(session.id)).expires_at == clock.now + 60


async def test_a_change_that_was_journalled_happens_though_its_caller_is_cancelled(
    store: SessionStore,
) -> None:
    task = asyncio.ensure_future(opened(store))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store._journal.load()  # behind the write, on the same thread
    await asyncio.sleep(0)
    assert store.num_open == len((await store._journal.load()).sessions) == 1


async def test_a_turn_of_a_session_closed_meanwhile_is_not_recorded(store: SessionStore) -> None:
    session = await opened(store)
    await store.end(session.id)
    with pytest.raises(SessionClosed):
        await with_turn(store, session)


async def test_a_full_journal_leaves_the_session_as_it_was(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(store)

    async def full(*_: object) -> None:
        raise InsufficientStorage("full")

    monkeypatch.setattr(store._journal, "append", full)
    with pytest.raises(InsufficientStorage):
        await with_turn(store, session)
    assert store.get(session.id) == session


async def test_a_service_starts_on_a_full_disk_though_it_cannot_sweep_there(
    store: SessionStore, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: a session that had expired meanwhile kept the service from starting,
    which its supervisor tried five times before it gave up."""
    kept, over = await opened(store), await opened(store)
    clock.advance(50)
    await store.touch(kept.id)
    await store.close()
    clock.advance(30)

    async def full(*_: object) -> None:
        raise InsufficientStorage("full")

    again = SessionStore(Journal(tmp_path), SETTINGS, clock)
    with monkeypatch.context() as patch:
        patch.setattr(again._journal, "end", full)
        await again.start()
    try:
        assert again.get(kept.id).id == kept.id
        with pytest.raises(SessionExpired):
            again.get(over.id)
        assert await again.sweep() == (over.id,)
    finally:
        await again.close()


async def test_sessions_whose_time_has_come_end_in_a_few_transactions(
    tmp_path: Path, clock: Clock
) -> None:
    many = SETTINGS.model_copy(update={"max_sessions": 200})
    store = SessionStore(Journal(tmp_path), many, clock)
    await store.start()
    await asyncio.gather(*(opened(store) for _ in range(200)))
    await store.close()
    clock.advance(67)
    journal = Journal(tmp_path)
    again = SessionStore(journal, many, clock)
    await again.start()  # a service that was down for a night must not flush the disk 200 times
    try:
        assert again.num_open == 0
        assert journal.num_commits < 20
    finally:
        await again.close()


async def test_a_session_that_cannot_be_ended_is_tried_again_and_holds_up_no_other(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = await opened(store), await opened(store)
    end = store._journal.end

    async def full_for_one(tombstone: Tombstone) -> None:
        if tombstone.session_id == stuck.id:
            raise InsufficientStorage("full")
        await end(tombstone)

    clock.advance(60)
    with monkeypatch.context() as patch:
        patch.setattr(store._journal, "end", full_for_one)
        assert await store.sweep() == (other.id,)
        with pytest.raises(InsufficientStorage):
            await store.sweep()
    assert await store.sweep() == (stuck.id,)


async def test_who_opens_and_closes_without_pause_fills_no_memory(
    store: SessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_sessions.sessions.tombstones.MAX_TOMBSTONES", 10)

    async def open_and_close() -> Session:
        session = await opened(store)
        await store.end(session.id)
        clock.advance(0.001)
        return session

    first, *_, last = [await open_and_close() for _ in range(1100)]
    await store.sweep()
    assert len(store._expiries) <= 1001
    assert len(store._ended) == 10
    assert len((await store._journal.load()).tombstones) == 10
    with pytest.raises(SessionNotFound):
        store.get(first.id)
    with pytest.raises(SessionClosed):
        store.get(last.id)


async def test_a_renewal_announced_while_a_turn_is_written_stays_true(
    store: SessionStore, clock: Clock
) -> None:
    session = await opened(store)
    writing = asyncio.ensure_future(with_turn(store, session))
    await asyncio.sleep(0)  # the turn's times are settled, its writing has begun
    clock.advance(3)
    renewed = await store.touch(session.id)
    await writing
    assert store.get(session.id).expires_at == renewed.expires_at == clock.now + 60
    assert len(store.get(session.id).turns) == 1


async def test_forks_and_rewinds_come_back_after_a_restart(
    store: SessionStore, tmp_path: Path, clock: Clock
) -> None:
    session = await with_turn(store, await opened(store))
    fork = await store.fork(session.id)
    clock.advance(10)
    rewound = await store.rewind(session.id, 1)
    assert (len(rewound.turns), len(fork.turns)) == (0, 1)
    assert rewound.expires_at == session.expires_at + 10
    again = await restarted(store, tmp_path, clock)
    try:
        assert again.get(session.id).turns == ()
        assert again.get(fork.id).turns == fork.turns
        await with_turn(again, again.get(session.id))
    finally:
        await again.close()


async def test_more_turns_than_there_are_cannot_be_taken_back(store: SessionStore) -> None:
    session = await with_turn(store, await opened(store))
    with pytest.raises(TooFewTurns, match="2 turns cannot be taken back: the session has 1"):
        await store.rewind(session.id, 2)
    assert store.get(session.id) == session


async def test_a_fork_needs_a_place_and_an_open_parent(store: SessionStore, clock: Clock) -> None:
    parent = await opened(store)
    forks = await asyncio.gather(*(store.fork(parent.id) for _ in range(4)), return_exceptions=True)
    assert [isinstance(fork, TooManySessions) for fork in forks] == [False, False, True, True]
    await store.end(parent.id)
    with pytest.raises(SessionClosed):
        await store.fork(parent.id)
    with pytest.raises(SessionNotFound):
        await store.fork("f" * 32)
    assert store.num_open == 2
    clock.advance(61)
    assert len(await store.sweep()) == 2


async def test_a_change_that_is_being_written_is_a_part_of_the_fork_or_it_is_not(
    store: SessionStore, tmp_path: Path, clock: Clock
) -> None:
    """Never half of it: what the table says of a fork is what the journal says."""
    session = await with_turn(store, await opened(store))
    image = SessionImage("d", 1, 1, 1, "PNG")
    place = ImagePlace("d", 0, 1)
    changes = (
        store.append(
            session,
            make_turn(2, places=(place,)),
            images=(image,),
            contents={"d": b"x"},
            system=None,
        ),
        store.fork(session.id),
        store.rewind(session.id, 1),
        store.fork(session.id),
        store.end(session.id),
    )
    _, with_image, _, without, _ = await asyncio.gather(*changes)
    with pytest.raises(SessionClosed):
        await store.fork(session.id)
    assert (with_image.images, without.images) == ((image,), ())
    again = await restarted(store, tmp_path, clock)
    try:
        assert again.get(with_image.id).turns == with_image.turns
        assert again.get(without.id).turns == without.turns == session.turns
        assert await again.read_image("d") == b"x"
    finally:
        await again.close()


async def test_a_fork_that_finds_its_parent_just_ended_takes_no_place(store: SessionStore) -> None:
    parent = await opened(store)
    results = await asyncio.gather(
        store.end(parent.id), store.fork(parent.id), return_exceptions=True
    )
    assert isinstance(results[1], SessionClosed)
    for _ in range(3):
        await opened(store)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_at_once_the_journal_holds_what_the_table_holds(
    tmp_path: Path, clock: Clock, seed: int
) -> None:
    random = Random(seed)
    settings = SETTINGS.model_copy(update={"max_sessions": 12})
    store = SessionStore(Journal(tmp_path), settings, clock)
    await store.start()
    sessions = {(await opened(store)).id for _ in range(3)}

    async def ask(session_id: str) -> None:
        digest = random.choice("abcd")
        number = random.randrange(100)
        await store.append(
            store.get(session_id),
            make_turn(number, places=(ImagePlace(digest, 0, 1),)),
            images=(SessionImage(digest, 1, 1, 1, "PNG"),),
            contents={digest: digest.encode()},
            system=random.choice(["s", None]),
        )

    async def fork(session_id: str) -> None:
        sessions.add((await store.fork(session_id)).id)

    async def rewind(session_id: str) -> None:
        await store.rewind(session_id, random.randint(1, 3))

    async def touch(session_id: str) -> None:
        clock.advance(1)
        await store.touch(session_id)

    async def end(session_id: str) -> None:
        await store.end(session_id)

    changes = [ask] * 6 + [fork] * 3 + [rewind] * 3 + [touch] * 2 + [end]
    for _ in range(60):
        # One change of turns for each session, as its line has it; the others come as they like.
        asked = random.sample(sorted(sessions), min(3, len(sessions)))
        at_once = [random.choice(changes)(session_id) for session_id in asked]
        at_once += [random.choice([fork, touch, end])(random.choice(asked))]
        results = await asyncio.gather(*at_once, return_exceptions=True)
        assert all(result is None or isinstance(result, VlmError) for result in results), results
        sessions = {session_id for session_id in sessions if store.is_open(session_id)}
        if not sessions:
            sessions = {(await opened(store)).id}
    table = {session_id: store.get(session_id) for session_id in sessions}
    again = await restarted(store, tmp_path, clock)
    try:
        for session_id, session in table.items():
            kept = again.get(session_id)
            assert (kept.turns, kept.images, kept.system) == (
                (session.turns, session.images, session.system)
            )
            assert kept.expires_at >= session.expires_at
            for digest in {image.digest for image in session.images}:
                assert await again.read_image(digest) == digest.encode()
    finally:
        await again.close()


async def test_a_store_starts_on_a_full_disk_although_it_can_forget_nothing_there(
    store: SessionStore, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It did not: a worker that died while the disk was full could not be started again, and the
    # service ended, once a session had been closed an hour before or had expired meanwhile.
    kept, closed, expired = await opened(store), await opened(store), await opened(store)
    await store.end(closed.id)
    clock.advance(59)
    await store.touch(kept.id)
    clock.advance(50)

    async def full(*_: object) -> None:
        raise InsufficientStorage("full")

    with monkeypatch.context() as disk:
        disk.setattr(Journal, "forget", full)
        disk.setattr(Journal, "end", full)
        again = await restarted(store, tmp_path, clock)
        assert again.get(kept.id).turns == kept.turns
        with pytest.raises(SessionExpired):
            again.get(expired.id)
        with pytest.raises(InsufficientStorage):
            await again.sweep()
    assert await again.sweep() == (expired.id,)
    assert not again.is_open(expired.id)
    await again.close()
