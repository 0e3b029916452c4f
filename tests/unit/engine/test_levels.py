"""What leaves the device goes to the host, and comes back without being computed again."""

from __future__ import annotations

from tests.unit.engine.helpers import Bench, followed_by, turn
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Plan

ROW_BYTES = FakeRunner.feature_bytes_per_token


def bench(
    *, num_blocks: int = 8, num_host_blocks: int = 32, loads: int = 32, features: int = 8
) -> Bench:
    runner = FakeRunner(
        num_blocks=num_blocks,
        block_size=4,
        num_host_blocks=num_host_blocks,
        host_feature_bytes=64 * ROW_BYTES,
    )
    limits = EngineLimits(
        eviction=Eviction.LRU, max_loads_per_step=loads, feature_bytes=features * ROW_BYTES
    )
    return Bench(runner=runner, limits=limits)


def num_computed(plans: list[Plan]) -> int:
    return sum(len(span.tokens) for plan in plans for span in plan.spans)


def test_a_restored_prefix_answers_as_if_it_had_never_left() -> None:
    here = bench()
    first = turn("a", range(10, 28), new=4)
    [heard] = here.run(first)
    here.run(turn("b", range(30, 58), new=4))
    located = here.engine.locate(first.tokens, ())
    assert (located.kv_tokens, located.host_kv_tokens) == (0, 18)
    before = len(here.runner.plans)
    following = followed_by(first, heard.tokens, 50, turn_id="c")
    [again] = here.run(following)
    assert again.tokens == reference_answer(following)
    assert again.prefilled is not None
    assert again.prefilled.cached_tokens == 21, "to the token, the partly filled block included"
    assert num_computed(here.runner.plans[before:]) == 2 + 3
    assert here.engine.stats().host_tokens_total == 21


def test_others_go_on_while_a_prefix_comes_back_bit_by_bit() -> None:
    here = bench(num_blocks=14, loads=2)
    first = turn("a", range(10, 34), new=1)
    here.run(first)
    here.run(turn("b", range(40, 90), new=4))
    here.add(turn("other", 7, 8, new=20))
    here.step()
    before = len(here.runner.plans)
    here.add(turn("back", range(10, 34), 5, new=1))
    for _ in range(4):
        here.step()
    plans = here.runner.plans[before:]
    assert [len(plan.load) for plan in plans] == [2, 2, 2, 0]
    assert all("other" in {span.turn_id for span in plan.spans} for plan in plans)
    assert [span.turn_id for span in plans[3].spans] == ["other", "back"]
    here.run()
    assert here.heard["back"].tokens == reference_answer(turn("back", range(10, 34), 5, new=1))


def test_two_sessions_that_share_a_stored_prefix_bring_it_back_once() -> None:
    here = bench(num_blocks=12)
    here.run(turn("a", range(10, 26), new=0))
    here.run(turn("b", range(30, 78), new=0))
    one, other = turn("one", range(10, 26), 5, 6), turn("other", range(10, 26), 7, 8)
    here.run(one, other)
    assert here.engine.stats().host_blocks_loaded_total == 4
    for each in (one, other):
        assert here.heard[each.turn_id].tokens == reference_answer(each)


def test_a_part_that_has_become_a_whole_block_meanwhile_is_not_taken_for_a_part() -> None:
    """Found by the simulation. Two sessions whose beginning is on the host are asked the same.
    While the second's comes back, the first computes the block of which a part was stored. The
    second took it all for the part, did not name it, and the engine died of what it put behind."""
    here = bench(num_blocks=20, loads=1)
    here.run(turn("a", range(10, 27), new=0))
    here.run(turn("b", range(30, 110), new=0))
    same = (*range(10, 27), 5, 6, 7, 8)
    one, other = turn("one", same, 50, new=6), turn("other", same, 60, 61, 62, 63, new=6)
    here.run(one, other)
    assert here.engine.stats().host_blocks_loaded_total > 0
    for each in (one, other):
        assert here.heard[each.turn_id].tokens == reference_answer(each)


def test_a_turn_cancelled_on_its_way_back_loses_nothing_that_was_stored() -> None:
    here = bench(num_blocks=12, loads=1)
    first = turn("a", range(10, 26), new=0)
    here.run(first)
    here.run(turn("b", range(30, 78), new=0))
    here.add(turn("back", range(10, 26), 5))
    here.step()
    here.cancel("back")
    located = here.engine.locate(first.tokens, ())
    assert located.kv_tokens + located.host_kv_tokens == 16
    assert located.kv_tokens == 4


def test_what_the_host_has_no_room_for_is_gone_and_computed_again() -> None:
    here = bench(num_host_blocks=2)
    first = turn("a", range(10, 28), new=4)
    here.run(first)
    here.run(turn("b", range(30, 58), new=4))
    located = here.engine.locate(first.tokens, ())
    assert located.kv_tokens + located.host_kv_tokens <= 8
    again = turn("c", range(10, 28), new=4)
    [heard] = here.run(again)
    assert heard.tokens == reference_answer(again)
    assert here.engine.stats().host_blocks_evicted_total > 0


def test_features_go_to_the_host_and_come_back_unencoded() -> None:
    here = bench(num_blocks=64, num_host_blocks=0, features=8)
    for number, name in enumerate(("cat", "dog", "cow")):
        here.run(turn(name, number, (name, 4), 5))
    first = turn("a", 0, ("cat", 4), 5)
    assert here.engine.locate(first.tokens, first.images).host_features == ("cat",)
    other = turn("b", 77, ("cat", 4), 5)
    [heard] = here.run(other)
    assert heard.tokens == reference_answer(other)
    assert heard.asked_for == []
    stats = here.engine.stats()
    assert stats.images_encoded_total == 3
    assert stats.host_features_restored_total == 1
    assert stats.features_cached + stats.host_features_stored == 3


def test_an_image_is_given_up_by_the_host_before_its_pixels_are_asked_for_again() -> None:
    here = bench(num_blocks=64, num_host_blocks=0, features=4)
    for number in range(20):
        here.run(turn(str(number), number, (f"photo-{number}", 4), 5))
    stats = here.engine.stats()
    assert stats.host_feature_bytes == 64 * ROW_BYTES
    assert stats.host_features_evicted_total == 3
    here.engine.scheduler.caches.images.pixels.clear()
    [heard] = here.run(turn("again", 99, ("photo-0", 4), 5))
    assert heard.asked_for == ["photo-0"]


def test_clearing_forgets_the_host_too() -> None:
    here = bench()
    first = turn("a", ("cat", 8), range(10, 18), new=4)
    here.run(first)
    here.run(turn("b", range(30, 58), new=4))
    here.engine.clear()
    located = here.engine.locate(first.tokens, first.images)
    assert (located.kv_tokens, located.host_kv_tokens) == (0, 0)
    assert (located.features, located.host_features) == ((), ())
    [heard] = here.run(turn("c", ("cat", 8), range(10, 18), new=4))
    assert heard.tokens == reference_answer(first)
