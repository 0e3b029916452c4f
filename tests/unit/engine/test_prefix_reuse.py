"""What is computed is not computed again, and nothing is reused that is not the same."""

from __future__ import annotations

import pytest

from tests.unit.engine.helpers import IMAGE_TOKEN, Bench, followed_by, turn
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Finished, FinishReason, ImageSpan, Plan


def num_computed(plans: list[Plan]) -> int:
    return sum(len(span.tokens) for plan in plans for span in plan.spans)


def test_a_follow_up_computes_only_what_is_new_to_the_token() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    first = turn("a", range(10, 20), new=8)
    [heard] = bench.run(first)
    before = len(bench.runner.plans)
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == 0
    # 10 of the prompt, 8 of the answer; the last one was sampled but never computed: 17 in KV
    second = followed_by(first, heard.tokens, 50, 51, turn_id="b")
    [again] = bench.run(second)
    assert again.prefilled is not None
    assert again.prefilled.prompt_tokens == 20
    assert again.prefilled.cached_tokens == 17
    assert [len(span.tokens) for span in bench.runner.plans[before].spans] == [3]
    assert bench.runner.plans[before].copies == (), "nobody else needs the block it goes on in"
    assert again.tokens == reference_answer(second)


def test_a_prompt_that_is_wholly_cached_computes_its_last_token_again() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    [first] = bench.run(turn("a", range(8), new=1))
    before = len(bench.runner.plans)
    [second] = bench.run(turn("b", range(8), new=1))
    assert second.prefilled is not None
    assert second.prefilled.cached_tokens == 7
    assert num_computed(bench.runner.plans[before:]) == 1
    assert first.tokens == second.tokens
    assert bench.engine.stats().blocks_cached == 2, "the block filled twice is kept once"


def test_a_turn_without_an_answer_only_fills_the_cache() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    [first] = bench.run(turn("a", range(10), new=0))
    assert first.prefilled is not None
    assert first.tokens == []
    assert first.end == Finished("a", FinishReason.LENGTH)
    assert bench.engine.locate(tuple(range(10)), ()).kv_tokens == 10


def test_a_turn_without_an_answer_that_is_wholly_cached_computes_nothing() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", range(8), new=0))
    num_steps = len(bench.runner.plans)
    [again] = bench.run(turn("b", range(8), new=0))
    assert again.prefilled is not None
    assert again.prefilled.cached_tokens == 8
    assert again.end == Finished("b", FinishReason.LENGTH)
    assert len(bench.runner.plans) == num_steps


def test_two_conversations_on_one_image_share_its_blocks_and_its_features() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    first = turn("a", 10, ("cat", 11), 20, 21, new=3)
    second = turn("b", 10, ("cat", 11), 30, 31, 32, new=3)
    bench.add(first)
    bench.step()  # encodes its image
    bench.step()
    used_by_one = bench.engine.stats().blocks_in_use
    bench.add(second)
    bench.step()
    # 12 common tokens are three blocks; the question of the second takes one more block, or two
    assert bench.engine.stats().blocks_in_use == used_by_one + 1
    bench.run()
    assert bench.heard["b"].prefilled is not None
    assert bench.heard["b"].prefilled.cached_tokens == 12
    assert bench.heard["b"].prefilled.images_encoded == 0
    assert bench.heard["b"].asked_for == []
    assert bench.heard["a"].tokens == reference_answer(first)
    assert bench.heard["b"].tokens == reference_answer(second)
    assert bench.engine.stats().images_encoded_total == 1


def test_conversations_computed_in_the_same_steps_end_up_sharing() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    same = [turn(name, ("cat", 12), 5, new=2) for name in "abc"]
    bench.run(*same)
    assert bench.engine.stats().blocks_cached == 4
    assert [bench.heard[name].tokens for name in "abc"] == [reference_answer(same[0])] * 3


@pytest.mark.parametrize(
    ("parts", "cached"),
    [
        pytest.param((("dog", 8), 5), 0, id="another image"),
        pytest.param((("cat", 8), 5), 8, id="the same image"),
        pytest.param(([1] * 8, 5), 0, id="placeholders without an image"),
        pytest.param((("cat", 4), ("cat", 4), 5), 0, id="the same image, shorter and twice"),
        pytest.param((1, ("cat", 7), 5), 0, id="the same image, shorter and one token on"),
        pytest.param((("cat", 8), 6), 8, id="the same image before another word"),
    ],
)
def test_images_share_blocks_only_if_they_are_the_same(
    parts: tuple[int | tuple[str, int] | list[int], ...], cached: int
) -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", ("cat", 8), 5))
    other = turn("b", *parts)
    [heard] = bench.run(other)
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == cached


def test_two_images_inside_a_block_share_what_comes_before_them() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", 10, 11, 12, ("cat", 1), 9))
    other = turn("b", 10, 11, 12, ("dog", 1), 9)
    [heard] = bench.run(other)
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == 3
    assert heard.tokens == reference_answer(other)


def test_an_image_names_the_block_with_the_place_where_it_begins() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", ("cat", 3), IMAGE_TOKEN, 9))
    other = turn("b", IMAGE_TOKEN, ("cat", 3), 9)
    [heard] = bench.run(other)
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == 0
    assert heard.tokens == reference_answer(other)


def test_what_is_reused_may_end_inside_an_image() -> None:
    limits = EngineLimits(max_batch_tokens=5)
    bench = Bench(runner=FakeRunner(block_size=4), limits=limits)
    bench.add(turn("a", 10, 11, ("cat", 6), 7))
    bench.step()  # encodes its image
    bench.step()
    bench.cancel("a")
    bench.engine.scheduler.caches.images.clear()
    bench.step()
    other = turn("b", 10, 11, ("cat", 6), 7, 8)
    [heard] = bench.run(other)
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == 5
    assert heard.asked_for == ["cat"], "the rest of it needs features"
    assert heard.tokens == reference_answer(other)


def test_conversations_that_part_inside_a_block_both_go_on_from_there() -> None:
    bench = Bench(runner=FakeRunner(block_size=8))
    first = turn("a", ("cat", 4), 7, new=5)
    [heard] = bench.run(first)
    before = len(bench.runner.plans)
    one = followed_by(first, heard.tokens, 50, turn_id="one")
    other = followed_by(first, heard.tokens, 60, 61, turn_id="other")
    for each in bench.run(one, other):
        assert each.prefilled is not None
        assert each.prefilled.cached_tokens == 9
    assert num_computed(bench.runner.plans[before : before + 1]) == 2 + 3
    assert bench.heard["one"].tokens == reference_answer(one)
    assert bench.heard["other"].tokens == reference_answer(other)
    assert bench.engine.stats().blocks_copied_total == 1


def test_a_conversation_that_goes_back_reuses_what_is_before_that_point() -> None:
    bench = Bench(runner=FakeRunner(block_size=8))
    first = turn("a", range(10, 20), new=20)
    [heard] = bench.run(first)
    kept = heard.tokens[:3]
    back = followed_by(first, kept, 90, 91, turn_id="b")
    [again] = bench.run(back)
    assert again.prefilled is not None
    assert again.prefilled.cached_tokens == 13
    assert again.tokens == reference_answer(back)
    [whole] = bench.run(followed_by(first, heard.tokens, 5, turn_id="c"))
    assert whole.prefilled is not None
    assert whole.prefilled.cached_tokens == 29, "what was there before is there still"


def test_a_cancelled_answer_is_reused_as_far_as_it_came() -> None:
    bench = Bench(runner=FakeRunner(block_size=8))
    first = turn("a", range(10), new=100)
    bench.add(first)
    for _ in range(4):
        bench.step()
    bench.cancel("a")
    [heard] = bench.run(followed_by(first, bench.heard["a"].tokens, 5, turn_id="b"))
    assert heard.prefilled is not None
    assert heard.prefilled.cached_tokens == 10 + 3


def test_where_a_prefix_is_cached_can_be_asked_without_changing_anything() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    first = turn("a", ("cat", 8), 5)
    bench.run(first)
    location = bench.engine.locate(first.tokens, first.images)
    assert location.kv_tokens == 9
    assert location.features == ("cat",)
    assert location.pixels == ("cat",)
    nowhere = bench.engine.locate(first.tokens, (ImageSpan("dog", 0, 8),))
    assert (nowhere.kv_tokens, nowhere.features, nowhere.pixels) == (0, (), ())
    assert bench.engine.locate(first.tokens, first.images) == location


def test_clearing_costs_time_but_changes_no_answer() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    first = turn("a", ("cat", 8), 5, retain=("s", 5000.0))
    bench.run(first)
    bench.engine.clear()
    bench.engine.check_integrity()
    assert bench.engine.locate(first.tokens, first.images).kv_tokens == 0
    assert bench.engine.stats().features_cached == 0
    again = turn("b", ("cat", 8), 5)
    [heard] = bench.run(again)
    assert heard.asked_for == ["cat"]
    assert heard.tokens == reference_answer(again)
