"""The benchmark's arithmetic, and that it measures no cache by accident."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.figures import Rates, Round, compute_figures
from bench.keep import keep
from bench.machine import describe_machine
from bench.measure import Quantiles, TurnTimes, time_pieces, turn_times
from bench.report import Report
from bench.scenarios import SessionTimes
from bench.workload import Lengths, Workload

LENGTHS = Lengths(num_turns=2, num_question_words=8, num_answer_tokens=3)


def turn(ttft: float, tpot: float = 5.0) -> TurnTimes:
    return TurnTimes(ttft, (tpot, tpot), tpot, num_tokens=3, num_cached=90, num_prompt=100)


def one_round(slowness: float) -> Round:
    session = SessionTimes(20.0, 64, (turn(100.0), turn(10.0 * slowness), turn(10.0 * slowness)))
    return Round(
        sessions=(session,),
        with_picture=(turn(120.0 * slowness),),
        engine_alone=(turn(4.0 * slowness, 4.5), turn(6.0 * slowness, 4.5)),
        tokens_per_second=Rates(8, 20.0, 80.0, 10.0, 20.0),
    )


async def test_times_are_counted_from_sending_the_prompt() -> None:
    ticks = iter([10.0, 10.1, 10.4, 10.5])

    async def pieces() -> AsyncIterator[str]:
        for piece in "abc":
            yield piece

    arrivals, end = await time_pieces(pieces(), 9.5, lambda: next(ticks))
    times = turn_times(arrivals, end, num_tokens=6, num_cached=1, num_prompt=2)
    assert times.ttft == pytest.approx(500.0)
    assert times.gaps == pytest.approx((100.0, 300.0))
    assert times.tpot == pytest.approx(100.0)


def test_quantiles_hold_their_extremes() -> None:
    figures = Quantiles.of([float(value) for value in range(1, 102)])
    assert (figures.p50, figures.p99, figures.smallest, figures.largest) == (51, 100, 1, 101)
    assert Quantiles.of([7.0]) == Quantiles(1, 7.0, 7.0, 7.0, 7.0, 7.0)


def test_first_prompts_and_follow_ups_are_told_apart() -> None:
    figures = compute_figures("m", "float32", LENGTHS, [one_round(1.0), one_round(3.0)])
    assert figures.first_ttft.p50 == 100.0
    assert figures.open_to_first.p50 == 120.0
    assert figures.follow_up_ttft.num_samples == 4
    assert figures.follow_up_cached == pytest.approx(0.9)


def test_ratios_and_overheads_are_taken_within_each_round() -> None:
    figures = compute_figures("m", "float32", LENGTHS, [one_round(1.0), one_round(3.0)])
    assert figures.ttft_ratio.median == pytest.approx(12.0)
    assert figures.ttft_ratio.smallest == figures.ttft_ratio.largest
    assert figures.rate_ratio.median == pytest.approx(4.0)
    assert (figures.overhead_ttft.smallest, figures.overhead_ttft.largest) == (5.0, 15.0)
    assert figures.overhead_token.median == pytest.approx(0.5)


def test_no_picture_and_no_question_comes_twice() -> None:
    workload, other = Workload(1), Workload(2)
    pictures = [workload.picture() for _ in range(4)] + [other.picture() for _ in range(4)]
    questions = [workload.question(24) for _ in range(50)] + [other.question(24)]
    assert len(set(pictures)) == len(pictures)
    assert len(set(questions)) == len(questions)
    assert {len(question.split()) for question in questions} == {24}


def test_a_report_is_kept_with_the_machine_that_it_was_taken_on(tmp_path: Path) -> None:
    figures = compute_figures("m", "float32", LENGTHS, [one_round(1.0)])
    report = Report("2026-01-02T03:04:05Z", describe_machine(), 1, 0.5, 0.7, 42, (figures,))
    kept = json.loads(keep("serve", report, tmp_path / "results").read_text())
    assert kept["machine"]["num_cores"] >= 1
    assert kept["machine"]["versions"]["torch"]
    assert kept["figures"][0]["follow_up_ttft"]["p50"] == 10.0
