"""What is done for one session does not depend on how many are open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.counting import Counter
from tests.support.pictures import data_url, encoded
from tests.unit.engine.helpers import Bench, turn
from tests.unit.service.harness import serving
from vlm_sessions.config import Settings
from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.sessions import journal as journal_module
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.store import SessionStore

FEW, MANY = 25, 500
NUM_TIMES = 8
MAX_RATIO = 1.1
"""Of what is done with many to what is done with few. Going through all would make it 20."""

Cost = tuple[float, float]
"""Lines of Python and instructions of SQLite, of one operation."""


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    counter = Counter()
    monkeypatch.setattr(journal_module, "_connect", counter.connecting(journal_module._connect))
    with counter.watching():
        yield counter


async def cost(counter: Counter, work: Callable[[], Awaitable[object]]) -> Cost:
    """Of one, as the mean of a few."""
    with counter.counting():
        for _ in range(NUM_TIMES):
            await work()
    assert counter.num_lines, "something is counted"
    return counter.num_lines / NUM_TIMES, counter.num_instructions / NUM_TIMES


def assert_constant(few: Cost, many: Cost) -> None:
    for before, after in zip(few, many, strict=True):
        assert after <= before * MAX_RATIO, (few, many)


async def test_a_request_takes_as_much_with_500_sessions_as_with_25(
    tmp_path: Path, counter: Counter
) -> None:
    sessions: list[str] = []
    shades = count()
    costs: list[dict[str, Cost]] = []
    async with serving(tmp_path) as harness:

        async def open_with_a_picture() -> None:
            picture = data_url(encoded(f"#{next(shades):06x}", (8, 8)))
            sessions.append(await harness.open(picture))

        async def close_one() -> None:
            await harness.service.close_session(sessions.pop())

        for size in (FEW, MANY):
            missing = range(size - len(sessions))
            await asyncio.gather(*(open_with_a_picture() for _ in missing))
            asked = await harness.open()
            operations: dict[str, Callable[[], Awaitable[object]]] = {
                "open": open_with_a_picture,
                "close": close_one,
                "describe": partial(harness.service.describe, asked),
                "ask": partial(harness.ask, asked),
                "sweep": harness.service.sweep,
            }
            costs.append({name: await cost(counter, work) for name, work in operations.items()})
    for name, few in costs[0].items():
        assert_constant(few, costs[1][name])


async def test_expiring_one_session_takes_as_much_among_500_as_among_25(
    tmp_path: Path, counter: Counter
) -> None:
    clock = Clock()
    settings = Settings(session_idle_seconds=1000, session_max_seconds=10**8, max_sessions=1000)
    store = SessionStore(Journal(tmp_path), settings, clock)
    await store.start()
    held: list[str] = []

    async def open_one() -> str:
        return (await store.open(model="m", system=None, images=(), contents={})).id

    async def expire_one() -> None:
        clock.advance(1.0)
        (expired,) = await store.sweep()
        assert expired not in held

    costs = []
    for size in (FEW, MANY):
        await asyncio.gather(*(store.touch(session) for session in held))
        held += await asyncio.gather(*(open_one() for _ in range(size - len(held))))
        opened_from = clock.now
        for _ in range(NUM_TIMES):
            clock.advance(1.0)
            await open_one()
        clock.advance(500.0)
        await asyncio.gather(*(store.touch(session) for session in held))
        clock.now = opened_from + 1000.5
        assert await store.sweep() == (), "what was renewed is put right, and nothing is over"
        costs.append(await cost(counter, expire_one))
        assert store.num_open == size
    assert_constant(*costs)
    await store.close()


@pytest.mark.parametrize("num_blocks", [64, 4000])
async def test_the_engine_does_as_much_for_a_turn_however_many_sessions_it_keeps_prefixes_of(
    num_blocks: int, counter: Counter
) -> None:
    """With a pool that holds them all, and with one that is full of them long before."""
    bench = Bench(runner=FakeRunner(num_blocks=num_blocks), limits=EngineLimits())
    engine = bench.engine
    numbers = count()

    async def converse() -> None:
        number = next(numbers)
        tokens = range(10 * number, 10 * number + 10)
        engine.add(turn(f"t{number}", tokens, new=2, retain=(f"s{number}", 10**9 + number)))
        while engine.has_work:
            engine.step()

    costs = []
    for size in (FEW, MANY):
        for _ in range(size):
            await converse()
        costs.append(await cost(counter, converse))
    assert_constant(*costs)
    engine.check_integrity()
