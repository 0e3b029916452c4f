"""What a policy would rather keep."""

from __future__ import annotations

from vlm_sessions.engine.blanks import BlankBlocks
from vlm_sessions.engine.eviction import LRU, CostAware, Entry
from vlm_sessions.engine.prices import Prices
from vlm_sessions.engine.ranking import Ranking


def entry(
    *,
    last_used: float = 100.0,
    num_bytes: int = 1000,
    seconds: float = 0.1,
    retentions: int = 0,
    lifetime: float = 1200.0,
    is_given_up: bool = False,
) -> Entry:
    return Entry(
        num_bytes=num_bytes,
        restore_seconds=seconds,
        last_used=last_used,
        num_retentions=retentions,
        until=last_used + lifetime,
        is_given_up=is_given_up,
    )


def in_order(*entries: Entry, now: float = 100.0) -> list[Entry]:
    policy = CostAware()
    return sorted(entries, key=lambda each: policy.rank(each, now))


def test_what_an_open_session_holds_outlives_what_nobody_does() -> None:
    opened, stray = entry(retentions=1, last_used=50.0), entry()
    assert in_order(opened, stray) == [stray, opened]


def test_what_was_given_up_goes_before_everything() -> None:
    closed, old = entry(is_given_up=True, seconds=9.0), entry(last_used=0.0)
    assert in_order(old, closed) == [closed, old]


def test_what_costs_more_for_its_size_is_kept() -> None:
    cheap, dear = entry(seconds=0.1), entry(seconds=0.2)
    assert in_order(dear, cheap) == [cheap, dear]
    big = entry(seconds=0.2, num_bytes=3000)
    assert in_order(cheap, big) == [big, cheap]


def test_a_session_that_is_silent_for_long_gives_way_to_one_that_has_just_spoken() -> None:
    silent, spoken = entry(retentions=1, last_used=0.0), entry(retentions=1)
    assert in_order(spoken, silent) == [silent, spoken]


def test_what_many_sessions_share_and_what_lasts_longer_is_kept() -> None:
    one, many = entry(retentions=1), entry(retentions=5)
    assert in_order(many, one) == [one, many]
    short = entry(retentions=1, lifetime=10.0)
    assert in_order(one, short) == [short, one]


def test_ranks_given_at_different_times_compare_as_if_given_at_one() -> None:
    policy = CostAware()
    early, late = entry(last_used=100.0, retentions=1), entry(last_used=400.0, retentions=1)
    before = policy.rank(early, 100.0)
    policy.note_wait(5.0)
    assert before < policy.rank(late, 400.0)
    assert abs(policy.rank(late, 400.0) - policy.rank(late, 900.0)) < 1e-9


def test_how_long_sessions_are_silent_is_learnt() -> None:
    policy = CostAware()
    for _ in range(200):
        policy.note_wait(5.0)
    assert 4.9 < policy.wait_seconds < 5.1


def test_only_what_is_fetched_faster_than_computed_is_worth_storing() -> None:
    policy = CostAware()
    assert policy.is_worth_storing(entry(seconds=0.1), fetch_seconds=0.01)
    assert not policy.is_worth_storing(entry(seconds=0.1), fetch_seconds=0.2)
    assert not policy.is_worth_storing(entry(is_given_up=True), fetch_seconds=0.01)


def test_lru_knows_nothing_but_time() -> None:
    policy = LRU()
    dear, recent = entry(seconds=9.0, retentions=9, last_used=1.0), entry(last_used=2.0)
    assert policy.rank(dear, 5.0) < policy.rank(recent, 5.0)
    assert policy.is_worth_storing(recent, fetch_seconds=100.0)


def test_a_token_deep_in_its_conversation_costs_more_to_compute_again() -> None:
    assert Prices().compute(16, depth=8000) > 1.5 * Prices().compute(16, depth=0)


def test_a_ranking_gives_the_lowest_first_also_after_changes() -> None:
    ranking: Ranking[int] = Ranking()
    for item in range(1000):
        ranking.put(item, float(item % 10), item)
    for item in range(0, 1000, 10):
        ranking.put(item, 100.0, item)
    ranking.discard(1)
    assert [ranking.pop() for _ in range(3)] == [11, 21, 31]
    assert len(ranking) == 996


# --- blank blocks -----------------------------------------------------------------------------


def test_blank_blocks_are_handed_out_in_a_row() -> None:
    blank = BlankBlocks(20)
    assert blank.take(4) == [8, 9, 10, 11], "from the middle of the longest run"
    blank.check_integrity()
    assert blank.take(3, after=11) == [12, 13, 14], "unless others follow what is there already"
    for block in (9, 11, 10):
        blank.add(block)
        blank.check_integrity()
    assert blank.take(10) == [*range(8), 16, 17], "the longest first, and of the next the middle"
    blank.check_integrity()


def test_conversations_that_grow_at_the_same_time_stay_in_one_piece_each() -> None:
    blank = BlankBlocks(1000)
    conversations = [blank.take(30) for _ in range(8)]
    for _ in range(20):
        for blocks in conversations:
            blocks.extend(blank.take(1, after=blocks[-1]))
            blank.check_integrity()
    for blocks in conversations:
        assert blocks == list(range(blocks[0], blocks[0] + 50))


def test_what_is_asked_for_is_pieced_together_when_no_run_is_long_enough() -> None:
    blank = BlankBlocks(6)
    blank.take(6)
    for block in (0, 1, 3, 5):
        blank.add(block)
    assert sorted(blank.take(4)) == [0, 1, 3, 5]
    assert len(blank) == 0
