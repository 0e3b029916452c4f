"""Sessions that part from one another, and sessions that go back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import Harness, collect, serving
from vlm_sessions.errors import (
    Draining,
    InsufficientStorage,
    ModelChanged,
    SessionBusy,
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooFewTurns,
    TooManySessions,
)
from vlm_sessions.protocol.schema import Answer, Opened, RewindSession, Rewound

PICTURE = data_url(encoded("red"))
OTHER = data_url(encoded("blue", (64, 32)))


async def fork(harness: Harness, session: str) -> str:
    return (await harness.service.fork(session)).lifetime.session_id


async def rewind(harness: Harness, session: str, turns: int = 1) -> Rewound:
    return await harness.service.rewind(session, RewindSession(turns=turns))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with serving(tmp_path) as harness:
        yield harness


# --- fork ---------------------------------------------------------------------------------------


async def test_a_fork_goes_on_from_what_was_said_and_its_parent_does_not_notice(
    harness: Harness,
) -> None:
    parent = await harness.open(PICTURE, system="be brief")
    await harness.ask(parent, "what?")
    child = await fork(harness, parent)
    await harness.ask(child, "and there?", images=(OTHER,))
    await harness.ask(parent, "and here?")
    first, in_child, in_parent = harness.engine.turns
    shared = first.tokens + tuple(harness.service._store.get(parent).turns[0].answer_tokens)
    assert in_child.tokens[: len(shared)] == in_parent.tokens[: len(shared)] == shared
    assert in_child.images[0] == in_parent.images[0]
    assert await harness.turns(child) == [("what?", "yes"), ("and there?", "yes")]
    assert await harness.turns(parent) == [("what?", "yes"), ("and here?", "yes")]
    assert len((await harness.service.describe(parent)).images) == 1
    await harness.restart()
    assert await harness.turns(child) == [("what?", "yes"), ("and there?", "yes")]


async def test_a_fork_is_told_all_images_that_it_has_and_its_own_lifetime(
    harness: Harness,
) -> None:
    parent = await harness.open(PICTURE)
    await harness.ask(parent, images=(OTHER,))
    harness.clock.advance(100)
    forked = await harness.service.fork(parent)
    assert isinstance(forked, Opened)
    assert [image.tokens for image in forked.images] == [4, 8]
    assert forked.lifetime.expires_at == harness.clock.now + harness.settings.session_idle_seconds
    before = harness.service._store.get(parent)
    assert before.last_used_at == harness.clock.now - 100, "nobody has used the parent"


async def test_a_fork_before_the_first_question_asks_it_of_the_same_images(
    harness: Harness,
) -> None:
    parent = await harness.open(PICTURE)
    child = await fork(harness, parent)
    await harness.ask(parent, "what?")
    await harness.ask(child, "what?")
    first, second = harness.engine.turns
    assert (first.tokens, first.images) == (second.tokens, second.images)


async def test_a_fork_outlives_its_parent_images_and_all(harness: Harness) -> None:
    parent = await harness.open(PICTURE)
    await harness.ask(parent)
    child = await fork(harness, parent)
    await harness.service.close_session(parent)
    await harness.restart()
    await harness.ask(child, "and now?")  # asks for the pixels
    assert len(await harness.turns(child)) == 2


async def test_a_running_answer_is_no_part_of_a_fork(tmp_path: Path) -> None:
    async with serving(tmp_path, "one", "two", "three") as harness:
        parent = await harness.open(PICTURE)
        await harness.ask(parent, "a")
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(parent, "b"))
        await harness.engine.reached.wait()
        child = await fork(harness, parent)
        assert await harness.turns(child) == [("a", "one")]
        harness.engine.gate.set()
        await running
        assert (await harness.ask(child, "c")).text == "three"
        assert await harness.turns(parent) == [("a", "one"), ("b", "two")]


async def test_a_fork_counts_as_a_session(tmp_path: Path) -> None:
    async with serving(tmp_path, max_sessions=2) as harness:
        parent = await harness.open()
        await fork(harness, parent)
        with pytest.raises(TooManySessions):
            await harness.service.fork(parent)
        assert harness.service.num_open_sessions == 2


async def test_the_engine_is_asked_to_keep_a_forks_prefix_and_a_rewound_ones(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        parent = await harness.open(PICTURE)
        await harness.ask(parent, "what?")
        child = await fork(harness, parent)
        await harness.service._prefills.done(child)
        (_, kept) = harness.engine.prefills
        assert kept.tokens == harness.service._store.get(parent).tokens
        assert kept.retention is not None
        assert kept.retention.key == child
        await rewind(harness, child)
        await harness.service._prefills.done(child)
        opening, _, back = harness.engine.prefills
        assert (back.tokens, back.images) == (opening.tokens, opening.images)
        assert back.retention is not None
        assert back.retention.key == child


# --- rewind -------------------------------------------------------------------------------------


async def test_a_rewound_session_goes_on_as_if_its_last_turns_had_never_been(
    harness: Harness,
) -> None:
    session, twin = await harness.open(PICTURE), await harness.open(PICTURE)
    for text, images in (("a", ()), ("b", (OTHER,)), ("c", (PICTURE,))):
        await harness.ask(session, text, images=images)
    rewound = await rewind(harness, session, 2)
    assert (rewound.rewound, rewound.turns) == (2, 1)
    assert len((await harness.service.describe(session)).images) == 1
    await harness.ask(twin, "a")
    await harness.ask(session, "d", images=(OTHER,))
    await harness.ask(twin, "d", images=(OTHER,))
    again, other = harness.engine.turns[-2:]
    assert (again.tokens, again.images) == (other.tokens, other.images)
    await harness.restart()
    assert await harness.turns(session) == await harness.turns(twin)


async def test_a_session_rewound_to_its_beginning_still_has_what_it_was_opened_with(
    harness: Harness,
) -> None:
    session = await harness.open(PICTURE)
    await harness.chat(session, ("system", "be brief"), ("user", "what?"))
    assert (await rewind(harness, session)).turns == 0
    described = await harness.service.describe(session)
    assert (described.turns, described.system, len(described.images)) == ((), None, 1)
    await harness.restart()
    await harness.chat(session, ("system", "talk"), ("user", "what?"))
    assert (await harness.service.describe(session)).system == "talk"
    assert len(harness.engine.turns[-1].images) == 1


async def test_going_back_renews_the_lifetime(harness: Harness) -> None:
    session = await harness.open()
    await harness.ask(session)
    harness.clock.advance(100)
    rewound = await rewind(harness, session)
    assert rewound.lifetime.session_id == session
    assert rewound.lifetime.expires_at == harness.clock.now + harness.settings.session_idle_seconds


async def test_more_turns_than_there_are_are_not_taken_back(harness: Harness) -> None:
    session = await harness.open(PICTURE)
    with pytest.raises(TooFewTurns):
        await rewind(harness, session)
    await harness.ask(session, "a")
    with pytest.raises(TooFewTurns):
        await rewind(harness, session, 2)
    assert await harness.turns(session) == [("a", "yes")]
    assert (await rewind(harness, session)).turns == 0


async def test_a_session_that_is_answering_cannot_be_rewound(tmp_path: Path) -> None:
    async with serving(tmp_path, "one", "two") as harness:
        session = await harness.open()
        await harness.ask(session, "a")
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session, "b"))
        await harness.engine.reached.wait()
        with pytest.raises(SessionBusy):
            await rewind(harness, session)
        harness.engine.gate.set()
        await running
        assert await harness.turns(session) == [("a", "one"), ("b", "two")]
        assert (await rewind(harness, session)).turns == 1


async def test_a_cancelled_answer_is_waited_for_and_one_behind_it_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path, "one", "two", "three") as harness:
        session = await harness.open()
        await harness.ask(session, "a")
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session, "b"))
        await harness.engine.reached.wait()
        await harness.service.cancel(session)
        assert (await rewind(harness, session)).turns == 0
        assert (await running).finish_reason == "cancelled"

        harness.engine.reached.clear()
        running = asyncio.create_task(harness.ask(session, "c"))
        await harness.engine.reached.wait()
        waiting = asyncio.create_task(harness.ask(session, "d"))
        await asyncio.sleep(0)
        await harness.service.cancel(session)
        with pytest.raises(SessionBusy):
            await rewind(harness, session)
        harness.engine.gate.set()
        await asyncio.gather(running, waiting)


async def test_prompts_that_come_while_a_session_goes_back_wait_for_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await harness.open()
    await harness.ask(session, "a")
    journal = harness.service._store._journal
    write, may_go_on, reached = journal.rewind, asyncio.Event(), asyncio.Event()

    async def slow(*states: object) -> None:
        reached.set()
        await may_go_on.wait()
        await write(*states)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "rewind", slow)
    rewinding = asyncio.create_task(rewind(harness, session))
    await reached.wait()
    asking = asyncio.create_task(harness.ask(session, "b"))
    with pytest.raises(SessionBusy):
        await rewind(harness, session)
    may_go_on.set()
    assert (await rewinding).turns == 0
    await asking
    assert await harness.turns(session) == [("b", "yes")]


async def test_a_full_journal_takes_nothing_back_and_forks_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await harness.open()
    await harness.ask(session, "a")

    async def full(*_: object) -> None:
        raise InsufficientStorage("full")

    monkeypatch.setattr(harness.service._store._journal, "rewind", full)
    monkeypatch.setattr(harness.service._store._journal, "add", full)
    with pytest.raises(InsufficientStorage):
        await rewind(harness, session)
    with pytest.raises(InsufficientStorage):
        await harness.service.fork(session)
    assert await harness.turns(session) == [("a", "yes")]
    assert harness.service.num_open_sessions == 1
    await harness.ask(session, "b")


# --- what both refuse ---------------------------------------------------------------------------


async def test_a_session_that_is_not_there_any_more_is_neither_forked_nor_rewound(
    harness: Harness,
) -> None:
    closed, expired = await harness.open(), await harness.open()
    await harness.service.close_session(closed)
    harness.clock.advance(harness.settings.session_idle_seconds)
    for session, error in (
        (closed, SessionClosed),
        (expired, SessionExpired),
        ("f" * 32, SessionNotFound),
    ):
        with pytest.raises(error):
            await harness.service.fork(session)
        with pytest.raises(error):
            await rewind(harness, session)


async def test_neither_is_done_while_the_service_shuts_down(harness: Harness) -> None:
    session = await harness.open()
    await harness.ask(session)
    harness.service.begin_drain()
    with pytest.raises(Draining):
        await harness.service.fork(session)
    with pytest.raises(Draining):
        await rewind(harness, session)
    assert len(await harness.turns(session)) == 1


async def test_neither_is_done_under_another_models_tokens(harness: Harness) -> None:
    session = await harness.open()
    await harness.ask(session)
    harness.processor.fingerprint = "another"
    with pytest.raises(ModelChanged):
        await harness.service.fork(session)
    with pytest.raises(ModelChanged):
        await rewind(harness, session)
    assert harness.service.num_open_sessions == 1


async def test_an_answer_may_be_asked_for_again_and_again(tmp_path: Path) -> None:
    async with serving(tmp_path, *"abc") as harness:
        session = await harness.open(PICTURE)
        answers: list[Answer] = []
        for _ in range(3):
            answers.append((await collect(await harness.stream(session)))[1])
            await rewind(harness, session)
        assert [answer.text for answer in answers] == list("abc")
        assert len({turn.tokens for turn in harness.engine.turns}) == 1


# --- while the journal writes ---------------------------------------------------------------------


class SlowRewind:
    """The journal's ``rewind``, held until ``go`` is set."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        journal = harness.service._store._journal
        self._write = journal.rewind
        monkeypatch.setattr(journal, "rewind", self._held)

    async def _held(self, *arguments: Any) -> None:
        self.reached.set()
        await self.go.wait()
        await self._write(*arguments)


async def test_a_rewind_whose_client_leaves_is_over_before_the_next_prompt_begins(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await harness.open()
    await harness.ask(session, "a")
    await harness.ask(session, "b")
    journal = SlowRewind(harness, monkeypatch)
    rewinding = asyncio.create_task(rewind(harness, session))
    await journal.reached.wait()
    asking = asyncio.create_task(harness.ask(session, "c"))
    rewinding.cancel()
    await asyncio.wait([rewinding])
    for _ in range(100):  # whoever could begin now, would
        await asyncio.sleep(0)
    assert len(harness.engine.turns) == 2
    journal.go.set()
    await asking
    assert await harness.turns(session) == [("a", "yes"), ("c", "yes")]


async def test_a_lifetime_that_a_rewind_announces_is_kept(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await harness.open()
    await harness.ask(session, "a")
    journal = SlowRewind(harness, monkeypatch)
    harness.clock.advance(harness.settings.session_idle_seconds - 0.001)
    rewinding = asyncio.create_task(rewind(harness, session))
    await journal.reached.wait()
    harness.clock.advance(0.01)
    sweeping = asyncio.create_task(harness.service.sweep())
    await asyncio.sleep(0)
    journal.go.set()
    rewound = await rewinding
    await sweeping
    assert rewound.lifetime.expires_at > harness.clock.now
    assert await harness.turns(session) == []


async def test_a_context_that_has_become_smaller_fails_no_fork_and_no_rewind(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        session = await harness.open(PICTURE, OTHER)
        await harness.ask(session, "a")
        harness.service._texts.fit_engine(4)
        assert (await rewind(harness, session)).turns == 0
        assert await fork(harness, session) != session
