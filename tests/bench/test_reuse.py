from __future__ import annotations

from bench.reuse import measure


def test_pairs_differ_in_what_is_found_again_and_in_nothing_else() -> None:
    pairs = measure("tiny", 12, num_asked=5, seed=1)
    # The token sampled last was never computed: it comes before the question.
    assert {pair.exact.num_computed for pair in pairs} == {6}
    assert {pair.whole.num_computed for pair in pairs} <= set(range(6, 6 + 16))
    assert len({pair.whole.num_computed for pair in pairs}) > 3
    assert all(pair.ratio > 0 for pair in pairs)
