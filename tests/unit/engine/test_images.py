"""Pixels asked for once, features made once, kept while there is room, and never missing."""

from __future__ import annotations

from tests.unit.engine.helpers import Bench, turn
from vlm_sessions.engine.fake import FakeRunner, fake_pixels, reference_answer
from vlm_sessions.engine.features import FeatureCache
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.pixels import PixelCache
from vlm_sessions.engine.types import Finished, FinishReason

ROW_BYTES = FakeRunner.feature_bytes_per_token


def encoded(bench: Bench) -> list[str]:
    return [image.digest for plan in bench.runner.plans for image in plan.encode]


def test_a_turn_that_waits_for_pixels_holds_up_nobody() -> None:
    bench = Bench(answers_pixels=False)
    waiting = turn("waiting", ("cat", 4), 5, new=2)
    bench.add(waiting)
    assert bench.heard["waiting"].asked_for == ["cat"]
    [other] = bench.run(turn("other", 7, 8, new=3))
    assert other.end == Finished("other", FinishReason.LENGTH)
    assert not bench.engine.has_work
    bench.engine.put_pixels(fake_pixels("cat"))
    bench.run()
    assert bench.heard["waiting"].tokens == reference_answer(waiting)
    assert bench.heard["waiting"].asked_for == ["cat"], "asked once"


def test_several_turns_on_one_missing_image_all_ask_and_the_first_answer_serves_them_all() -> None:
    bench = Bench(answers_pixels=False)
    turns = [turn(name, ("cat", 4), n, new=2) for n, name in enumerate("abc")]
    for each in turns:
        assert bench.add(each).asked_for == ["cat"]
    bench.cancel("a")
    bench.engine.put_pixels(fake_pixels("cat"))
    bench.engine.put_pixels(fake_pixels("cat"))
    bench.run()
    assert encoded(bench) == ["cat"]
    for each in turns[1:]:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)


def test_images_inside_the_cached_prefix_are_not_asked_for() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", ("cat", 8), 5, retain=("s", 5000.0)))
    features = bench.engine.scheduler.caches.images
    features.clear()
    [heard] = bench.run(turn("b", ("cat", 8), ("dog", 4), 6))
    assert heard.asked_for == ["dog"]


def test_turns_beyond_those_that_may_run_ask_when_it_is_their_turn() -> None:
    bench = Bench(limits=EngineLimits(max_running=1))
    bench.add(turn("a", 7, new=3))
    assert bench.add(turn("b", ("cat", 4), 5)).asked_for == []
    bench.run()
    assert bench.heard["b"].asked_for == ["cat"]
    assert bench.heard["b"].tokens == reference_answer(turn("b", ("cat", 4), 5))


def test_a_long_line_does_not_ask_for_all_its_pixels_at_once() -> None:
    """Each turn that waits for pixels has them kept for it, whatever the budget: as many as may run
    at once fill little memory, a whole line of them would fill it all."""
    bench = Bench(limits=EngineLimits(max_running=2), answers_pixels=False)
    turns = [turn(f"t{n}", (f"photo-{n}", 4), 5, new=2) for n in range(6)]
    for each in turns:
        bench.add(each)
    bench.run()
    asked = [bench.heard[each.turn_id].asked_for for each in turns]
    assert asked == [["photo-0"], ["photo-1"], [], [], [], []]
    bench.engine.put_pixels(fake_pixels("photo-1"))
    bench.run()
    assert bench.heard["t1"].tokens == reference_answer(turns[1])
    assert bench.heard["t2"].asked_for == ["photo-2"], "the place of the second is free"
    assert bench.heard["t3"].asked_for == []
    bench.cancel("t0")
    bench.run()
    assert bench.heard["t3"].asked_for == ["photo-3"], "and so is that of the first"


def test_at_most_a_few_images_are_encoded_in_a_step() -> None:
    bench = Bench(limits=EngineLimits(max_images_encoding=2))
    album = turn("a", *((f"photo-{n}", 3) for n in range(7)), 9)
    [heard] = bench.run(album)
    assert max(len(plan.encode) for plan in bench.runner.plans) == 2
    assert heard.prefilled is not None
    assert heard.prefilled.images_encoded == 7
    assert heard.tokens == reference_answer(album)


def test_features_are_dropped_when_room_is_needed_the_least_recently_used_first() -> None:
    bench = Bench(limits=EngineLimits(feature_bytes=2 * 4 * ROW_BYTES))
    for name in ("cat", "dog", "cat", "cow"):
        bench.run(turn(name + str(len(bench.heard)), len(bench.heard), (name, 4), 5))
    assert set(bench.runner.features) == {"cat", "cow"}
    assert encoded(bench) == ["cat", "dog", "cow"]


def test_an_image_larger_than_the_budget_is_served_and_then_dropped() -> None:
    bench = Bench(limits=EngineLimits(feature_bytes=4 * ROW_BYTES))
    small, huge = turn("a", ("cat", 4), 5), turn("b", ("panorama", 40), 5)
    bench.run(small, huge)
    assert bench.heard["b"].tokens == reference_answer(huge)
    assert "panorama" not in bench.runner.features
    assert bench.engine.stats().feature_bytes == 0


def test_a_conversation_of_more_images_than_the_budget_holds_is_served() -> None:
    limits = EngineLimits(feature_bytes=5 * ROW_BYTES, pixel_bytes=0, max_batch_tokens=3)
    bench = Bench(limits=limits)
    album = turn("a", *((f"photo-{n}", 5) for n in range(4)), 9)
    [heard] = bench.run(album)
    assert heard.tokens == reference_answer(album)
    assert bench.engine.stats().pixel_bytes == 0


def test_features_that_go_while_a_turn_needs_them_are_made_again() -> None:
    bench = Bench(
        limits=EngineLimits(feature_bytes=4 * ROW_BYTES, pixel_bytes=0, max_batch_tokens=4)
    )
    bench.run(turn("before", ("second", 4), 5))
    both = turn("both", ("first", 4), ("second", 4), 6)
    heard = bench.add(both)
    assert heard.asked_for == ["first"], "the features of the second are still there"
    bench.run()
    assert heard.asked_for == ["first", "second"]
    assert heard.tokens == reference_answer(both)


def test_an_image_shown_twice_in_a_conversation_is_encoded_once() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=3))
    twice = turn("a", ("cat", 5), 7, ("cat", 5), 8)
    [heard] = bench.run(twice)
    assert encoded(bench) == ["cat"]
    assert heard.tokens == reference_answer(twice)


def test_pixels_are_kept_within_their_budget_unless_pinned() -> None:
    size = len(fake_pixels("cat").data)
    cache = PixelCache(2 * size)
    cache.pin("cat")
    for digest in ("cat", "dog", "cow"):
        cache.put(fake_pixels(digest))
        cache.check_integrity()
    assert "cat" in cache
    assert "dog" not in cache
    assert "cow" in cache
    cache.put(fake_pixels("pig"))
    cache.unpin("cat")
    cache.put(fake_pixels("hen"))
    cache.check_integrity()
    assert "cat" not in cache
    assert cache.num_bytes == 2 * size


def test_pixels_are_let_go_once_the_features_are_made() -> None:
    bench = Bench(limits=EngineLimits(pixel_bytes=0))
    bench.add(turn("a", ("cat", 4), 5, new=10))
    assert bench.engine.stats().pixels_cached == 1, "kept beyond the budget for who needs them"
    bench.step()  # encodes its image
    bench.step()
    assert bench.engine.stats().running == 1
    assert bench.engine.stats().pixels_cached == 0


def test_features_in_use_are_never_dropped_for_others() -> None:
    cache = FeatureCache(10, bytes_per_token=1)
    assert cache.try_add("cat", 6)
    assert not cache.try_add("dog", 6)
    cache.check_integrity()
    cache.release("cat")
    assert cache.try_add("dog", 6)
    assert cache.take_moves().drop == ("cat",)
    cache.check_integrity()
