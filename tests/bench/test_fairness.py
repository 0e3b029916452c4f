"""The benchmark of fairness, with a model that is quick enough for it."""

from __future__ import annotations

from bench.fairness import measure
from bench.streams import NUM_STEPS_BEFORE


def test_streams_are_measured_before_and_while_an_image_is_opened() -> None:
    cases = measure("tiny", [1, 3], 2, shares=[0.5, 0.0], seed=1)
    assert [(case.num_streams, case.prefill_share) for case in cases] == [
        *((1, 0.5), (1, 0.0)),
        *((3, 0.5), (3, 0.0)),
    ]
    for case in cases:
        assert len(case.rounds) == 2
        for each in case.rounds:
            assert each.before.num_samples == case.num_streams * NUM_STEPS_BEFORE
            assert each.during.num_samples >= case.num_streams
            assert each.ttft > 0
        assert case.ratio.smallest > 0
        assert case.longest_gap >= max(each.during.p50 for each in case.rounds)
        assert case.ttft_alone > 0
