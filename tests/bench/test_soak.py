"""What grows is found, and what does not is left alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak.flat import Margin, trend_of

TIMES = [30.0 * number for number in range(50)]
MARGIN = Margin(absolute=10.0, share=0.05)


def test_noise_and_teeth_of_a_saw_are_flat() -> None:
    rng = Random(1)
    noise = [300 + rng.gauss(0, 20) for _ in TIMES]
    saw = [300.0 + 20 * (number % 5) for number in range(50)]
    assert trend_of(TIMES, noise, MARGIN).is_flat
    assert trend_of(TIMES, saw, MARGIN).is_flat


@given(st.floats(1.2, 10.0), st.integers(0, 2**31))
def test_what_grows_by_more_than_its_margin_is_not(times_the_margin: float, seed: int) -> None:
    rng = Random(seed)
    growth = times_the_margin * 15.0
    values = [300 + growth * time / TIMES[-1] + rng.uniform(-0.5, 0.5) for time in TIMES]
    trend = trend_of(TIMES, values, MARGIN)
    assert not trend.is_flat or trend.margin > growth
    assert trend.growth == pytest.approx(growth, abs=2.0)


def test_a_third_of_absurd_samples_moves_nothing() -> None:
    values = [100.0 if number % 3 else 100_000.0 * (number > 25) for number in range(50)]
    assert trend_of(TIMES, values, MARGIN).growth == pytest.approx(0.0, abs=1.0)


def test_what_shrinks_is_no_leak() -> None:
    assert trend_of(TIMES, [500.0 - number for number in range(50)], MARGIN).is_flat


def test_the_larger_margin_counts() -> None:
    assert trend_of([0.0, 1.0], [1000.0, 1000.0], MARGIN).margin == 50.0
    assert trend_of([0.0, 1.0], [10.0, 10.0], MARGIN).margin == 10.0
