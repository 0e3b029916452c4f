"""The fuzzer: a short run of each target without a service, and that it finds what it should."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest

from bench.fuzz.catalog import NEED_SERVICE, TARGETS
from bench.fuzz.dice import Dice, at_random
from bench.fuzz.run import Fed, feed, feed_apart
from bench.fuzz.target import Target
from bench.fuzz.targets.images import damaged_image

NUM_INPUTS = {"dialects": 3000, "headers": 3000, "images": 3000, "stream": 500}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", sorted(set(TARGETS) - NEED_SERVICE))
def test_hostile_inputs_give_what_is_meant_or_an_error_of_ours(name: str) -> None:
    fed = feed(TARGETS[name](""), name, NUM_INPUTS[name], seed=7)

    assert fed.findings == []
    assert fed.num_inputs == sum(fed.outcomes.values()) == NUM_INPUTS[name]
    accepted = sum(count for outcome, count in fed.outcomes.items() if outcome.startswith("→"))
    assert accepted > NUM_INPUTS[name] / 20, "so few that nothing behind the first check was tried"


def made(seed: int, numbers: range) -> list[bytes]:
    inputs: list[bytes] = []
    at_random(damaged_image)(seed, numbers, inputs.append)
    return inputs


def test_an_input_follows_from_its_seed_and_number_alone() -> None:
    inputs = made(1, range(20))

    assert made(1, range(13, 14)) == inputs[13:14]
    assert made(2, range(20)) != inputs
    assert len(set(inputs)) > 10


def feed_numbers(
    check: Callable[[int], str],
    num_inputs: int = 50,
    *,
    max_seconds: float = 5.0,
    max_growth_mib: float = 64.0,
) -> Fed:
    target = Target(
        at_random(lambda dice: dice.randrange(10)),
        check,
        max_seconds=max_seconds,
        max_growth_mib=max_growth_mib,
    )
    return feed(target, "numbers", num_inputs, seed=3)


def test_whatever_is_raised_is_a_finding_told_with_what_makes_it_again() -> None:
    def check(number: int) -> str:
        assert number != 7, "a seven"
        return "→ none"

    (finding,) = feed_numbers(check).findings

    assert "a seven" in finding
    seed, start = finding.split()[1:4:2]
    assert Dice(f"{seed}/{start}").randrange(10) == 7


def test_what_takes_too_long_and_what_grows_is_a_finding() -> None:
    kept: list[mmap.mmap] = []

    def keep(number: int) -> str:
        # Of the system: what tests before have freed is still this process's.
        kept.append(mmap.mmap(-1, 100_000))
        kept[-1].write(b"x" * 100_000)
        return f"→ {number}"

    (slow,) = feed_numbers(str, max_seconds=-1.0).findings
    (grown,) = feed_numbers(keep, num_inputs=2000, max_growth_mib=32.0).findings

    assert "of the processor" in slow
    assert "memory grew" in grown


def test_a_target_whose_process_dies_is_a_finding_of_that_target() -> None:
    fed = feed_apart("unheard of", 10, 1, start=0, url="", on_progress=lambda _: None)

    (finding,) = fed.findings
    assert "the process ended with 1" in finding
