"""The micro benchmark measures what it says: the same step, three ways."""

from __future__ import annotations

from pathlib import Path

from bench.decode import WORKS, Work, _result, measure
from bench.model import build_checkpoint
from bench.shapes import SHAPES


def test_every_work_is_one_step_of_every_engine(tmp_path: Path) -> None:
    build_checkpoint(SHAPES["tiny"], tmp_path)
    results = measure(tmp_path, "float32", num_context=580, num_rounds=2)
    assert [result.work for result in results] == [work.name for work in WORKS]
    assert all(result.step_ms.median > 0 for result in results)


def test_ratios_are_taken_within_a_round() -> None:
    rounds = [(1.1, 1.0, 2.2), (11.0, 10.0, 22.0), (110.0, 100.0, 220.0)]
    result = _result(Work("any", num_sessions=8), "float32", rounds)
    assert round(result.overhead.median, 6) == 0.1
    assert result.speedup.median == 2
    assert result.speedup.lower_quartile == result.speedup.upper_quartile
    assert result.tokens_per_second == 8 * 1000 / 11
