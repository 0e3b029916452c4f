"""What would wait too long is refused at once; what would not is taken, whoever overdoes it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.support.clock import Clock
from tests.unit.service.harness import collect, serving
from vlm_sessions.engine.types import Prefilled
from vlm_sessions.errors import Overloaded, SessionNotFound, TooManyRequests
from vlm_sessions.protocol.schema import Generate, OpenSession, Prompt
from vlm_sessions.service.overload import (
    FEWEST_COMPUTED,
    LONGEST_RETRY_SECONDS,
    MEMORY,
    MIN_WAITING,
    OPENING_SHARE,
    Backlog,
    Wait,
)

COMPUTED = Prefilled("t", 1, 0, 0, 0.0)


class Line:
    """A backlog, the clock that it is measured by, and the turns that wait in it."""

    def __init__(self, max_wait_seconds: float = 1.01) -> None:
        self.clock = Clock()
        self.backlog = Backlog(max_wait_seconds, self.clock)
        self._blocks: list[tuple[ExitStack, Wait]] = []

    def join(self, *clients: str) -> None:
        for client in clients:
            block = ExitStack()
            self._blocks.append((block, block.enter_context(self.backlog.waiting(client))))

    def compute(self, seconds: float) -> None:
        """The first of them takes the engine so long."""
        self.clock.advance(seconds)
        block, wait = self._blocks.pop(0)
        wait.hear(COMPUTED)
        block.close()

    def leave(self) -> None:
        """The first of them gives up."""
        self._blocks.pop(0)[0].close()

    def learn(self, seconds: float, count: int = 200) -> None:
        """Turns take so long, one after another."""
        for _ in range(count):
            self.join("earlier")
            self.compute(seconds)


def clients(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def test_the_wait_is_the_number_before_times_what_each_takes() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(19))
    assert line.backlog.seconds_for("new") == pytest.approx(20 * 0.05)
    line.backlog.check_prompt("new")
    line.join("one more")
    with pytest.raises(Overloaded, match="20 prompts waiting") as refused:
        line.backlog.check_prompt("new")
    assert refused.value.retry_after == pytest.approx(21 * 0.05 - 1.01)


def test_all_of_a_sudden_hundred_that_would_wait_too_long_are_refused() -> None:
    line = Line()
    line.learn(0.05)
    taken = 0
    for client in clients(100):
        try:
            line.backlog.check_prompt(client)
        except Overloaded:
            continue
        line.join(client)
        taken += 1
    assert taken == 20


def test_a_service_that_was_full_takes_prompts_again_as_soon_as_its_line_is_short() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(40))
    with pytest.raises(Overloaded):
        line.backlog.check_prompt("new")
    for _ in range(25):
        line.compute(0.05)
    line.backlog.check_prompt("new")


def test_an_opening_is_refused_sooner_than_a_prompt() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(int(20 * OPENING_SHARE)))
    line.backlog.check_prompt("new")
    with pytest.raises(Overloaded):
        line.backlog.check_opening("new")


def test_who_stands_behind_others_in_a_session_waits_for_each_of_them() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(9))
    line.backlog.check_prompt("new", num_in_line=1)
    with pytest.raises(Overloaded, match=r"1\.5 s"):
        line.backlog.check_prompt("new", num_in_line=2)


def test_a_client_with_a_long_line_is_refused_and_another_is_not() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*["busy"] * 30)
    with pytest.raises(Overloaded):
        line.backlog.check_prompt("busy")
    line.backlog.check_prompt("other")
    line.backlog.check_opening("other")
    line.join(*["other"] * 4)
    assert line.backlog.seconds_for("other") == pytest.approx((4 + 5 + 1) * 0.05)


def test_a_few_may_always_wait_however_slow_the_engine_is() -> None:
    line = Line()
    line.learn(60.0)
    for client in clients(MIN_WAITING):
        line.backlog.check_prompt(client)
        line.join(client)
    with pytest.raises(Overloaded) as refused:
        line.backlog.check_prompt("new")
    assert refused.value.retry_after == LONGEST_RETRY_SECONDS


def test_a_new_engine_that_computes_its_first_batch_is_not_taken_for_a_slow_one() -> None:
    line = Line(max_wait_seconds=10.0)
    line.join(*clients(30))
    line.clock.advance(2.0)
    line.backlog.check_prompt("new")
    for _ in range(FEWEST_COMPUTED):
        line.compute(0.0)
    line.backlog.check_opening("new")


def test_a_new_engine_that_stands_still_is_not_waited_for_for_ever() -> None:
    line = Line(max_wait_seconds=10.0)
    line.join(*clients(30))
    line.clock.advance(5.0)
    with pytest.raises(Overloaded):
        line.backlog.check_prompt("new")


def test_a_faster_engine_is_soon_known_to_be_faster() -> None:
    line = Line()
    line.learn(1.0)
    line.learn(0.1, count=100)
    line.join(*clients(9))
    assert 1.0 < line.backlog.seconds_for("new") < 1.5


def test_an_engine_that_stands_still_is_not_taken_for_a_quick_one() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(10))
    line.backlog.check_prompt("new")
    line.clock.advance(5.0)
    with pytest.raises(Overloaded):
        line.backlog.check_prompt("new")


def test_time_in_which_nobody_waits_says_nothing_of_the_engine() -> None:
    line = Line()
    line.learn(0.05)
    line.clock.advance(3600.0)
    line.join(*clients(9))
    assert line.backlog.seconds_for("new") == pytest.approx(0.5)


def test_turns_that_give_up_no_longer_stand_before_anybody() -> None:
    line = Line()
    line.learn(0.05)
    line.join(*clients(40))
    for _ in range(40):
        line.leave()
    assert line.backlog.seconds_for("new") == 0.0


def test_many_that_are_computed_at_once_count_as_many() -> None:
    """As on a device that computes a batch in the time of one."""
    line = Line()
    for _ in range(50):
        line.join(*clients(8))
        line.compute(0.2)
        for _ in range(7):
            line.compute(0.0)
    line.join(*clients(15))
    assert line.backlog.seconds_for("new") == pytest.approx(16 * 0.2 / 8, rel=1 - MEMORY**8)


def test_without_a_limit_nobody_is_refused() -> None:
    line = Line(max_wait_seconds=0.0)
    line.learn(60.0)
    line.join(*clients(100))
    line.backlog.check_prompt("new")
    line.backlog.check_opening("new")


async def test_a_prompt_that_would_wait_too_long_is_refused_and_changes_nothing(
    tmp_path: Path,
) -> None:
    """Five prompts are in an engine that has computed none of them for longer than allowed."""
    async with serving(tmp_path, max_wait_seconds=1e-6) as harness:
        harness.engine.asks_for_pixels = False
        sessions = [await harness.open() for _ in range(6)]
        harness.engine.hold_prefills()
        running = [asyncio.create_task(harness.ask(one)) for one in sessions[:5]]
        for _ in running:
            await harness.engine.held.acquire()
        with pytest.raises(Overloaded) as refused:
            await harness.stream(sessions[5])
        assert isinstance(refused.value, TooManyRequests)
        assert refused.value.retry_after
        with pytest.raises(Overloaded):
            await harness.open()
        with pytest.raises(SessionNotFound):
            await harness.stream("unknown")
        assert harness.service.num_prompts == 5
        assert harness.service.num_open_sessions == 6
        harness.engine.let_prefills_go()
        await asyncio.gather(*running)
        assert await harness.turns(sessions[5]) == []
        assert (await harness.ask(sessions[5])).text == "yes"


async def test_turns_tell_the_engine_whose_they_are(tmp_path: Path) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        session = await harness.open(system="be brief")
        await harness.ask(session)
        turns = (*harness.engine.prefills, *harness.engine.turns)
        assert [turn.client for turn in turns] == [session] * len(turns)
        assert len(turns) == 2


async def test_with_api_keys_the_key_is_who_takes_turns(tmp_path: Path) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        service = harness.service
        opened = await service.open(OpenSession(system="be brief"), client="ann")
        session = opened.lifetime.session_id
        await collect(await service.prompt(session, Prompt(prompt="q"), "r1", client="ann"))
        await collect(await service.generate(Generate(prompt="q"), "r2", client="ann"))
        await collect(await service.generate(Generate(prompt="q"), "r3"))
        turns = (*harness.engine.prefills, *harness.engine.turns)
        assert [turn.client for turn in turns] == ["ann", "ann", "ann", "r3"]


async def test_a_key_that_overdoes_it_is_refused_and_another_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, max_wait_seconds=1e-6) as harness:
        service = harness.service
        harness.engine.hold_prefills()

        async def ask(client: str, request_id: str) -> str:
            command = Generate(prompt="q")
            stream = await service.generate(command, request_id, client=client)
            return (await collect(stream))[1].text

        many = [asyncio.create_task(ask("busy", f"r{number}")) for number in range(5)]
        for _ in many:
            await harness.engine.held.acquire()
        with pytest.raises(Overloaded):
            await ask("busy", "one more")
        with pytest.raises(Overloaded):
            await service.open(OpenSession(), client="busy")
        other = asyncio.create_task(ask("other", "single"))
        await harness.engine.held.acquire()
        harness.engine.let_prefills_go()
        assert await other == "yes"
        assert await asyncio.gather(*many) == ["yes"] * 5


class Simulated:
    """An engine that computes a batch of prompts in a time of its own, and who comes to it."""

    def __init__(self, *, seconds: float, batch: int, max_wait_seconds: float) -> None:
        self.line = Line(max_wait_seconds)
        self.refused_at: list[float] = []
        self.waits: dict[float, float] = {}
        """when a prompt came -> how long it waited; seconds after the start"""
        self._seconds = seconds
        self._batch = batch
        self._came_at: list[float] = []
        self._start = 0.0

    def run(self, arrivals: list[float]) -> None:
        """Let them come, in seconds from now, one client each, until all are computed."""
        clock = self.line.clock
        self._start = clock.now
        due = [self._start + at for at in sorted(arrivals)]
        ends: float | None = None
        while due or self._came_at:
            if ends is None and self._came_at:
                ends = clock.now + self._seconds
            if due and (ends is None or due[0] <= ends):
                clock.now = max(clock.now, due.pop(0))
                self._come(f"c{len(due)}")
            else:
                assert ends is not None
                clock.now, ends = ends, None
                self._compute()

    def _come(self, client: str) -> None:
        try:
            self.line.backlog.check_prompt(client)
        except Overloaded:
            self.refused_at.append(self.line.clock.now - self._start)
            return
        self.line.join(client)
        self._came_at.append(self.line.clock.now)

    def _compute(self) -> None:
        for _ in range(min(self._batch, len(self._came_at))):
            self.line.compute(0.0)
            came_at = self._came_at.pop(0)
            self.waits[came_at - self._start] = self.line.clock.now - came_at


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    rng = Random(seed)
    arrivals = [rng.expovariate(rate)]
    while arrivals[-1] < seconds:
        arrivals.append(arrivals[-1] + rng.expovariate(rate))
    return arrivals[:-1]


@pytest.mark.parametrize(("seconds", "batch"), [(0.05, 1), (0.2, 8), (0.5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_at_twice_what_it_can_do_an_engine_does_all_it_can_and_nobody_waits_too_long(
    seconds: float, batch: int, seed: int
) -> None:
    capacity, limit = batch / seconds, 5.0
    engine = Simulated(seconds=seconds, batch=batch, max_wait_seconds=limit)
    before = poisson(capacity / 2, 20.0, seed)
    burst = [20.0 + at for at in poisson(2 * capacity, 60.0, seed + 100)]
    after = [80.0 + at for at in poisson(capacity / 2, 20.0, seed + 200)]
    engine.run([*before, *burst, *after])
    assert max(engine.waits.values()) <= 1.5 * limit
    num_answered = sum(20.0 <= at < 80.0 for at in engine.waits)
    assert num_answered >= 0.95 * capacity * 60.0, "nothing of the engine's time is lost"
    assert len(engine.refused_at) >= 0.7 * capacity * 60.0
    assert min(engine.refused_at) > 20.0, "what it can do is taken"
    assert max(engine.refused_at) < 81.0 + 2 * seconds, "and taken again as soon as it can be done"
