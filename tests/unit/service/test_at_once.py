"""Everything at the same time: prompts, cancels, leaving, closing, expiring, a failing disk."""

import asyncio
import random
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import Harness, serving
from vlm_sessions.errors import EngineLost, InsufficientStorage, VlmError

PICTURE = data_url(encoded())
SEEDS = range(12)


async def leave(harness: Harness, session: str, num_events: int) -> None:
    stream = await harness.stream(session, "left")
    async with aclosing(stream.events) as events:
        for _ in range(num_events):
            await anext(events, None)


async def one_thing(harness: Harness, sessions: list[str], chance: random.Random) -> None:
    """Something that a client may do. Errors of ours are an answer too."""
    session = chance.choice(sessions)
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    with suppress(VlmError):
        match chance.randrange(9):
            case 0 | 1 | 2:
                await harness.ask(session, f"q{chance.random()}")
            case 3:
                await harness.ask(session, "shown", images=(PICTURE,))
            case 4:
                await leave(harness, session, chance.randrange(3))
            case 5:
                await harness.service.cancel(session)
            case 6:
                harness.clock.advance(chance.choice((1, 7, 30)))
                await harness.service.sweep()
            case 7:
                asked = asyncio.ensure_future(harness.ask(session, "given up"))
                await asyncio.sleep(0.001)
                asked.cancel()
                with suppress(asyncio.CancelledError):
                    await asked
            case _ if len(sessions) > 1:
                await harness.service.close_session(session)
            case _:
                await harness.service.describe(session)


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_left_behind_and_the_journal_holds_what_the_table_holds(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    answers = ["a longer answer" if chance.random() < 0.8 else EngineLost("x") for _ in range(60)]
    async with serving(tmp_path, *answers, session_idle_seconds=60) as harness:
        store, journal = harness.service._store, harness.service._store._journal
        for name in ("append", "touch", "end"):
            write = getattr(journal, name)

            async def sometimes(*arguments: object, write: object = write) -> None:
                if chance.random() < 0.1:
                    raise InsufficientStorage("The disk is full now and then.")
                await write(*arguments)  # type: ignore[operator]

            monkeypatch.setattr(journal, name, sometimes)
        sessions = [await harness.open(PICTURE) for _ in range(3)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(one_thing(harness, sessions, chance) for _ in range(60)))

        assert harness.service.num_prompts == 0
        assert harness.engine.num_in_flight == 0
        assert not store._num_users
        assert not harness.service._turns._running
        assert not harness.service._turns._admission._lines
        await asyncio.sleep(0)
        kept = {session.id: session for session in (await journal.load()).sessions}
        assert kept.keys() == store._open.keys()
        for session_id, session in store._open.items():
            assert kept[session_id].turns == session.turns
            assert kept[session_id].images == session.images
            assert kept[session_id].expires_at >= session.expires_at
        assert store._journalled_until.keys() == store._open.keys()
