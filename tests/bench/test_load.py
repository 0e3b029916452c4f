"""The load does not wait, its figures say what they should, and the knee is where it is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean

import pytest

from bench.load.arrivals import Habits, schedule
from bench.load.client import Reply
from bench.load.knee import GOOD_SHARE, find_knee
from bench.load.levels import Level, level_of
from bench.load.outcomes import Asked, Limits, Run
from bench.load.overload import plan_overload
from bench.pictures import SIZES, Pictures
from tests.bench.test_memory_and_router import run as run_bench
from vlm_sessions.media.decode import decode_image, digest_bytes

HABITS = Habits(num_turns=4, think_seconds=1.0)
LIMITS = Limits(ttft_seconds=1.0, gap_seconds=0.1)


def answered(due: float, *, ttft: float = 0.1, gap: float = 0.01) -> Reply:
    pieces = tuple(due + ttft + gap * n for n in range(4))
    return Reply(due, pieces[-1], 200, pieces=pieces)


def refused(sent: float, seconds: float = 0.02, retry_after: str | None = "1") -> Reply:
    return Reply(sent, sent + seconds, 429, "overloaded", retry_after=retry_after)


def asked(at: float, reply: Reply | None, **fields: bool) -> Asked:
    return Asked(at, at, reply, **fields)


def level(*all_asked: Asked, opened: tuple[tuple[float, Reply], ...] = ()) -> Level:
    run = Run(all_asked, opened, ((1.0, 0.001),))
    return level_of(run, LIMITS, rate=1.0, begins=0.0, ends=10.0, load=0.0)


def test_questions_come_at_the_rate_that_was_asked_for_and_by_chance() -> None:
    visits = schedule(20.0, HABITS, Random(1), begins=-8.0, ends=200.0)
    due = [at for visit in visits for at in visit.asks_at if at >= 0.0]
    assert len(due) / 200.0 == pytest.approx(20.0, rel=0.1)
    pauses = [b - a for visit in visits for a, b in pairwise(visit.asks_at)]
    assert mean(pauses) == pytest.approx(1.0, rel=0.1)
    assert all(at < 200.0 for visit in visits for at in visit.asks_at)


def test_the_same_seed_gives_the_same_visits_and_another_one_others() -> None:
    first, same, other = (
        schedule(5.0, HABITS, Random(seed), begins=0.0, ends=30.0) for seed in (1, 1, 2)
    )
    assert first == same != other


def test_a_turn_counts_if_its_first_token_and_its_gaps_are_within_the_limits() -> None:
    found = level(
        asked(1.0, answered(1.0)),
        asked(2.0, answered(2.0, ttft=1.1)),
        asked(3.0, answered(3.0, gap=0.2)),
        asked(4.0, refused(4.0)),
        asked(5.0, None, is_turned_away=True),
        asked(6.0, Reply(6.0, 6.1, 200, "engine_lost", pieces=(6.05,))),
        asked(7.0, Reply(7.0, 9.0, 0, "TimeoutError")),
        asked(11.0, answered(11.0)),
    )
    assert (found.num_due, found.num_good, found.num_answered) == (7, 1, 3)
    assert (found.num_refused, found.num_failed) == (2, 2)
    assert found.goodput == pytest.approx(0.1)


def test_the_wait_for_a_session_that_is_still_being_opened_counts() -> None:
    late = Asked(2.0, 2.0, answered(3.5, ttft=0.1))
    assert late.ttft == pytest.approx(1.6)
    assert not late.meets(LIMITS)


def test_refusals_are_timed_and_those_without_retry_after_are_counted() -> None:
    found = level(
        asked(1.0, refused(1.0, 0.02)),
        asked(2.0, refused(2.0, 0.04, retry_after=None)),
        opened=((3.0, refused(3.0, 0.06)), (4.0, Reply(4.0, 4.5, 200, session_id="s"))),
    )
    assert found.refusal is not None
    assert found.refusal.p50 == pytest.approx(40.0)
    assert (found.num_openings, found.num_openings_refused) == (2, 1)
    assert found.num_refusals_without_retry_after == 1


def level_at(rate: float, good: float) -> Level:
    num_due = 1000
    held = [asked(1.0, answered(1.0)) for _ in range(int(num_due * good))]
    others = [asked(1.0, refused(1.0)) for _ in range(num_due - len(held))]
    run = Run((*held, *others), (), ())
    return level_of(run, LIMITS, rate=rate, begins=0.0, ends=10.0, load=0.0)


@pytest.mark.parametrize("capacity", [9.0, 17.0, 40.0, 63.0])
async def test_the_knee_is_found_wherever_it_is(capacity: float) -> None:
    async def measure(rate: float) -> Level:
        return level_at(rate, min(1.0, GOOD_SHARE * capacity / rate))

    knee = await find_knee(measure, first_rate=8.0, growth=1.5, max_rate=1000.0, num_halvings=2)
    assert knee.is_found
    assert knee.level is not None
    assert capacity / 1.5 ** (1 / 4) / 1.001 <= knee.level.rate <= capacity * 1.001


async def test_a_rate_that_fails_once_is_tried_again() -> None:
    measured: list[float] = []

    async def measure(rate: float) -> Level:
        measured.append(rate)
        return level_at(rate, 0.5 if measured.count(rate) == 1 or rate > 20 else 1.0)

    knee = await find_knee(measure, first_rate=8.0, growth=2.0, max_rate=1000.0, num_halvings=0)
    assert measured == [8.0, 8.0, 16.0, 16.0, 32.0, 32.0]
    assert knee.level is not None
    assert knee.level.rate == 16.0


async def test_without_a_rate_that_is_held_there_is_no_knee() -> None:
    async def measure(rate: float) -> Level:
        return level_at(rate, 0.1)

    knee = await find_knee(measure, first_rate=8.0, growth=2.0, max_rate=100.0, num_halvings=2)
    assert knee.level is None
    assert knee.is_found


async def test_a_service_that_holds_all_rates_has_no_knee_that_was_found() -> None:
    async def measure(rate: float) -> Level:
        return level_at(rate, 1.0)

    knee = await find_knee(measure, first_rate=8.0, growth=2.0, max_rate=20.0, num_halvings=2)
    assert not knee.is_found
    assert knee.level is not None
    assert knee.level.rate == 16.0


def test_those_who_return_have_waited_through_the_burst() -> None:
    plan = plan_overload(30.0, 2.0, 20.0, HABITS, Random(3), line_seconds=0.5)
    waiting = [v for v in plan.visits if v.opens_at < 0 and v.asks_at and v.asks_at[0] >= 20.5]
    assert [len(visit.asks_at) for visit in waiting] == [1] * 20
    burst = [at for visit in plan.visits for at in visit.asks_at if 0.0 <= at < 20.0]
    assert len(burst) / 20.0 == pytest.approx(60.0, rel=0.2)


def test_pictures_of_a_scene_show_the_same_and_are_not_the_same() -> None:
    pictures = Pictures(Random(1))
    for scene, size in enumerate(SIZES):
        one, other = pictures.of(scene), pictures.of(scene)
        assert digest_bytes(one) != digest_bytes(other)
        first, second = (decode_image(each, max_megapixels=5) for each in (one, other))
        assert (first.width, first.height) == size
        assert first.picture.tobytes() == second.picture.tobytes()


@pytest.mark.slow
def test_a_short_run_against_the_real_service_keeps_what_is_promised(tmp_path: Path) -> None:
    report = run_bench(
        tmp_path,
        "bench.load",
        *("--seconds", "3", "--first-rate", "3", "--max-rate", "3", "--ttft", "60", "--gap", "30"),
        *("--overload", "1", "--warm", "0", "--turns", "2", "--think", "0.1", "--seed", "1"),
        *("--max-wait", "5"),
    )
    assert {level["rate"] for level in report["levels"]} == {3.0}
    level = report["levels"][-1]
    assert level["num_due"] == level["num_good"] + level["num_refused"] > 0
    assert level["ttft"]["p50"] > 0
    assert not report["is_found"]
    assert report["overload"]["first"]["num_due"] >= 20
    assert report["overload"]["first"]["num_failed"] == 0
    assert report["verdicts"]["each refusal has Retry-After"]
