"""Chaos would notice: the driver against a service that goes wrong in one way each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.chaos.faults.catalog import FAULTS, PAIRS
from bench.chaos.faults.processes import HANGS
from bench.chaos.leaks import TABLES, Footprint, Process, compare
from bench.chaos.plan import make_plan
from bench.chaos.reference import learn
from bench.chaos.scripts import write_scripts
from bench.chaos.stack import Role
from bench.chaos.talk import Talk
from bench.chaos.tally import Tally
from bench.chaos.traffic import Traffic
from bench.chaos.weather import BROKEN, Weather
from tests.bench.sinning_service import SinningService
from tests.bench.test_chaos import SEED

ROUND_REQUESTS = 200
MAX_LOOKS = 200
NUM_CLIENTS = 6
HANG_SECONDS, PATIENT_SECONDS = 3.0, 30.0


async def some_requests(tally: Tally) -> None:
    """Wait until so many have ended, or, where most of them hang, for a while."""
    enough = tally.num_requests + ROUND_REQUESTS
    for _ in range(MAX_LOOKS):
        if tally.num_requests >= enough:
            return
        await asyncio.sleep(0.01)


async def drive(sin: str, allowed: frozenset[str] = frozenset()) -> Tally:
    """Some traffic, of which the middle third meets a service that sins."""
    scripts = write_scripts(1, num_scripts=4, num_turns=4)
    service, tally, weather = SinningService(scripts), Tally(), Weather()
    # A machine may be busy; only where something hangs is the limit waited for.
    talk = Talk("http://service", HANG_SECONDS if sin == "hangs" else PATIENT_SECONDS, service)
    plays = [await learn(talk, script) for script in scripts]
    traffic = Traffic(talk, plays, num_clients=NUM_CLIENTS, seed=1, weather=weather, tally=tally)
    async with traffic.running():
        for now_sin in ("", sin, ""):
            service.sin = now_sin
            with weather.bad(allowed):
                await some_requests(tally)
                await traffic.pause()
            service.sin = ""
            await traffic.check()
            traffic.resume()
        await traffic.pause()
        await traffic.close_all()
    return tally


async def test_a_service_without_fault_is_found_to_be_so() -> None:
    tally = await drive("")
    assert tally.violations == []
    assert tally.num_answers_checked > 50
    assert tally.num_records_checked > NUM_CLIENTS
    operations = set(tally.by_operation())
    assert {"open", "prompt", "stream", "cancelled stream", "left stream", "cancel"} < operations
    assert {"describe", "fork", "rewind", "close", "describe closed", "generate"} < operations


@pytest.mark.parametrize(
    ("sin", "noticed"),
    [
        ("forgets a turn", "turns, must have"),
        ("records twice", "turns, must have"),
        ("records what was cancelled", "turns, must have"),
        ("forks too little", "turns, must have"),
        ("answers wrongly", "right is"),
        ("swallows a piece", "a stream's pieces are"),
        ("keeps what is closed", "is there after its close"),
        ("hangs", f"nothing within {HANG_SECONDS:g} s"),
        ("fails", "internal (500)"),
        ("breaks", "ReadError"),
        ("sends a page", "Bad Gateway"),
    ],
)
async def test_a_service_that_goes_wrong_is_found_out(sin: str, noticed: str) -> None:
    tally = await drive(sin)
    assert any(noticed in violation for violation in tally.violations), tally.violations


async def test_a_fault_excuses_only_what_it_explains() -> None:
    excused = await drive("breaks", frozenset({BROKEN}))
    assert excused.violations == []
    assert excused.num_settled_out > 0, "what broke before it began has not happened"
    other = await drive("breaks", frozenset({"engine_lost"}))
    assert any("ReadError" in violation for violation in other.violations)


def test_weather_excuses_what_began_before_its_end_and_nothing_after() -> None:
    now = 0.0
    weather = Weather(lambda: now)
    assert not weather.excuses("engine_lost", 0.0)
    with weather.bad(frozenset({"engine_lost"})):
        now = 5.0
        assert weather.excuses("engine_lost", 4.0)
        assert not weather.excuses("internal", 4.0)
    now = 9.0
    assert weather.excuses("engine_lost", 5.0), "it began in bad weather"
    assert not weather.excuses("engine_lost", 5.1)


def footprint(**changed: Any) -> Footprint:
    fields: dict[str, Any] = {
        "processes": {str(role): Process(100.0, 20, 10) for role in Role},
        "gauges": {"vlm_open_sessions": 0.0},
        "rows": dict.fromkeys(TABLES, 0),
        "num_jobs": 1,
        "heap_mib": 20.0,
    }
    return Footprint(**(fields | changed))


@pytest.mark.parametrize(
    ("changed", "noticed"),
    [
        ({"gauges": {"vlm_open_sessions": 1.0}}, "vlm_open_sessions is 1"),
        ({"rows": {"turns": 3}}, "the journal has 3 turns"),
        ({"num_jobs": 9}, "the front end holds 9 jobs, 1 before"),
        ({"heap_mib": 90.0}, "Java's objects take 90.0 MiB"),
        ({"processes": {"edge": Process(100.0, 20, 10)}}, "there is no engine"),
        ({"processes": {str(r): Process(999.0, 20, 10) for r in Role}}, "worker has 999 MiB"),
        ({"processes": {str(r): Process(100.0, 99, 10) for r in Role}}, "99 open files"),
        ({"processes": {str(r): Process(100.0, 20, 99) for r in Role}}, "99 threads"),
    ],
)
def test_what_has_grown_or_is_left_over_is_a_leak(changed: dict[str, Any], noticed: str) -> None:
    assert compare(footprint(), footprint()) == []
    assert any(noticed in problem for problem in compare(footprint(), footprint(**changed)))


def names(seconds: float, seed: int) -> list[str]:
    return [blow.fault.name for blow in make_plan(FAULTS, PAIRS, seconds, seed).blows]


def test_a_long_plan_has_every_kind_most_of_them_often_and_the_same_seed_the_same_plan() -> None:
    plan = names(600, seed=7)
    assert set(plan) == {fault.name for fault in (*FAULTS, *PAIRS)}
    assert len(plan) >= 40
    assert all(plan.count(fault.name) == 1 for fault in HANGS), "they take a minute each"
    assert names(600, seed=7) == plan
    assert names(600, seed=8) != plan


def test_a_plan_of_a_minute_has_every_kind_that_fits() -> None:
    assert set(names(60, seed=SEED)) >= {fault.name for fault in FAULTS if fault not in HANGS}


async def test_clients_that_are_told_to_go_and_at_once_to_pause_do_nothing() -> None:
    # They had been woken, and went on beside the check, which found sessions closing under it.
    scripts = write_scripts(1, num_scripts=2, num_turns=2)
    talk, tally = Talk("http://service", PATIENT_SECONDS, SinningService(scripts)), Tally()
    plays = [await learn(talk, script) for script in scripts]
    traffic = Traffic(talk, plays, num_clients=2, seed=1, weather=Weather(), tally=tally)
    async with traffic.running():
        await traffic.pause()
        await asyncio.sleep(0)  # all of them wait now
        traffic.resume()
        await traffic.pause()
        await asyncio.sleep(0.1)
    assert tally.num_requests == 0
