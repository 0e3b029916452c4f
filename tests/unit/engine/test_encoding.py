"""Images are encoded beside the steps: nobody waits who need not, nothing is lost or done twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.engine.helpers import Bench, turn
from tests.unit.engine.test_invariants import MANY, EngineMachine
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Finished, FinishReason, Plan

ROW_BYTES = FakeRunner.feature_bytes_per_token


def slow_bench(limits: EngineLimits | None = None, *, encode_steps: int = 6) -> Bench:
    """An engine whose images take so many steps."""
    return Bench(runner=FakeRunner(encode_steps=encode_steps), limits=limits)


def encoded(bench: Bench) -> list[str]:
    return [image.digest for plan in bench.runner.plans for image in plan.encode]


def computed(plan: Plan) -> set[str]:
    return {span.turn_id for span in plan.spans}


def test_who_decodes_gets_a_token_in_every_step_while_an_image_is_encoded() -> None:
    bench = slow_bench()
    heard = bench.add(turn("stream", 7, 8, new=30))
    bench.step()
    opener = turn("opener", ("cat", 4), 5, new=2)
    bench.add(opener)
    for num_tokens in range(2, 8):
        bench.step()
        assert len(heard.tokens) == num_tokens
        assert computed(bench.runner.plans[-1]) == {"stream"}
        assert not bench.runner.plans[-1].wait
    bench.run()
    assert bench.heard["opener"].tokens == reference_answer(opener)


def test_who_comes_later_and_lacks_nothing_goes_first() -> None:
    bench = slow_bench()
    bench.add(turn("opener", ("cat", 4), 5, new=0))
    bench.step()
    later = bench.add(turn("later", 7, 8, new=2))
    bench.step()
    bench.step()
    assert later.end == Finished("later", FinishReason.LENGTH)
    assert bench.heard["opener"].prefilled is None
    stats = bench.engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_in_use) == (0, 1, 0)


def test_an_engine_with_nothing_else_to_do_waits_for_the_image_and_not_in_circles() -> None:
    bench = slow_bench(encode_steps=3)
    bench.run(turn("opener", ("cat", 4), 5, new=1))
    waits = [plan.wait for plan in bench.runner.plans]
    assert waits == [True, True, True, True, False]
    assert [bool(plan.encode) for plan in bench.runner.plans] == [True, *[False] * 4]


def test_an_opener_waits_for_no_prompt_before_its_image_is_begun() -> None:
    bench = slow_bench(EngineLimits(max_batch_tokens=8))
    bench.add(turn("long", range(100), new=0))
    bench.step()
    bench.add(turn("opener", ("cat", 4), 5, new=0))
    bench.step()
    assert encoded(bench) == ["cat"]
    assert computed(bench.runner.plans[-1]) == {"long"}


def test_images_that_wait_are_begun_together_and_the_oldest_first() -> None:
    bench = slow_bench(EngineLimits(max_images_encoding=3))
    for number in range(5):
        bench.add(turn(f"t{number}", (f"photo-{number}", 4), 5, new=0))
    bench.run()
    begun = [[image.digest for image in plan.encode] for plan in bench.runner.plans if plan.encode]
    assert begun == [["photo-0", "photo-1", "photo-2"], ["photo-3", "photo-4"]]


def test_an_image_that_many_open_at_the_same_moment_is_encoded_once() -> None:
    bench = slow_bench()
    turns = [turn(f"t{n}", ("cat", 4), 5, n, new=2) for n in range(50)]
    bench.run(*turns)
    assert encoded(bench) == ["cat"]
    assert bench.engine.stats().images_encoded_total == 1
    for each in turns:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)


def test_the_images_of_one_prompt_are_begun_together() -> None:
    bench = slow_bench()
    album = turn("album", *((f"photo-{n}", 4) for n in range(3)), 5, new=2)
    [heard] = bench.run(album)
    assert [len(plan.encode) for plan in bench.runner.plans if plan.encode] == [3]
    assert heard.prefilled is not None
    assert heard.prefilled.images_encoded == 3
    assert heard.tokens == reference_answer(album)
    assert bench.engine.stats().feature_hits_total == 0, "what was made for it is no hit"


def test_the_next_image_is_encoded_while_the_one_before_it_is_computed() -> None:
    bench = slow_bench(
        EngineLimits(feature_bytes=8 * ROW_BYTES, max_batch_tokens=2), encode_steps=1
    )
    album = turn("album", *((f"photo-{n}", 4) for n in range(3)), 5, new=2)
    [heard] = bench.run(album)
    beside = [plan for plan in bench.runner.plans if plan.encode and plan.spans]
    assert [plan.encode[0].digest for plan in beside] == ["photo-2"]
    assert encoded(bench) == ["photo-0", "photo-1", "photo-2"]
    assert heard.tokens == reference_answer(album)


def test_an_image_that_nobody_wants_any_more_is_kept_and_accounted_for() -> None:
    bench = slow_bench()
    bench.add(turn("gone", ("cat", 4), 5, new=0))
    bench.step()
    bench.cancel("gone")
    bench.engine.clear()
    bench.engine.check_integrity()
    assert bench.engine.has_work, "the image is still on its way"
    bench.run()
    stats = bench.engine.stats()
    assert (stats.features_cached, stats.feature_bytes) == (1, 4 * ROW_BYTES)
    back = turn("back", ("cat", 4), 5, new=2)
    [heard] = bench.run(back)
    assert encoded(bench) == ["cat"]
    assert heard.asked_for == []
    assert heard.tokens == reference_answer(back)


def test_when_who_asked_for_an_image_is_cancelled_others_still_get_it() -> None:
    bench = slow_bench()
    for name in ("first", "second"):
        bench.add(turn(name, ("cat", 4), 5, new=2))
    bench.step()
    bench.cancel("first")
    bench.run()
    assert encoded(bench) == ["cat"]
    assert bench.heard["second"].tokens == reference_answer(turn("second", ("cat", 4), 5, new=2))


def test_an_image_larger_than_the_budget_reaches_who_waits_for_it() -> None:
    bench = slow_bench(EngineLimits(feature_bytes=4 * ROW_BYTES))
    huge = turn("huge", ("panorama", 40), 5, new=2)
    [heard] = bench.run(huge)
    assert encoded(bench) == ["panorama"]
    assert heard.tokens == reference_answer(huge)
    assert bench.engine.stats().feature_bytes == 0


def test_an_older_turn_gets_the_room_for_features_first() -> None:
    bench = slow_bench(EngineLimits(feature_bytes=4 * ROW_BYTES), encode_steps=2)
    turns = [turn(f"t{n}", (f"photo-{n}", 4), 5, new=2) for n in range(4)]
    bench.run(*turns)
    assert encoded(bench) == [f"photo-{n}" for n in range(4)]
    for each in turns:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)


@pytest.mark.parametrize("encode_steps", [1, 4])
def test_whatever_happens_while_images_are_encoded_the_answers_are_the_same(
    encode_steps: int,
) -> None:
    class SlowEncodes(EngineMachine):
        pass

    SlowEncodes.encode_steps = encode_steps
    run_state_machine_as_test(SlowEncodes, settings=settings(MANY, max_examples=150))
