"""The comparison of policies: the same sessions for both, and the better one no worse."""

from __future__ import annotations

import pytest

from bench.eviction import Outcome, compare
from vlm_sessions.engine.eviction import Eviction

SEEDS = range(1, 6)


@pytest.mark.parametrize(("num_open", "host_sessions"), [(6, 0), (12, 8)])
def test_choosing_by_cost_computes_no_more_again_than_lru_and_answers_no_later(
    num_open: int, host_sessions: int
) -> None:
    """Over several traces: of a single one, chance decides as much as the policy does."""
    taken: dict[str, list[Outcome]] = {Eviction.LRU: [], Eviction.COST: []}
    for seed in SEEDS:
        for one in compare(
            "h200-7b",
            num_sessions=40,
            num_open=num_open,
            device_sessions=6,
            host_sessions=host_sessions,
            seed=seed,
        ):
            taken[one.eviction].append(one)
            assert bool(one.copied_seconds) == bool(host_sessions)
    lru, cost = taken[Eviction.LRU], taken[Eviction.COST]
    assert [one.num_follow_ups for one in lru] == [one.num_follow_ups for one in cost]
    assert 0 < sum(one.computed_tokens for one in cost) <= sum(one.computed_tokens for one in lru)
    assert sum(one.ttft_mean for one in cost) <= sum(one.ttft_mean for one in lru)
