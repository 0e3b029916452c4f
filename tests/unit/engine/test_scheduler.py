"""Who is computed when: batching, chunks, preemption, and how turns end."""

from __future__ import annotations

import pytest

from tests.unit.engine.helpers import Bench, turn
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Failed, Finished, FinishReason, Plan, Sampling


def spans(plan: Plan) -> dict[str, int]:
    """turn_id -> tokens that the plan computes for it"""
    return {span.turn_id: len(span.tokens) for span in plan.spans}


def test_a_long_prompt_is_computed_in_chunks_and_decoding_goes_on_meanwhile() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=8, prefill_share=0))
    bench.add(turn("short", 1, 2, 3, new=10))
    bench.step()
    bench.add(turn("long", range(20), new=2))
    for _ in range(3):
        bench.step()
    assert [spans(plan) for plan in bench.runner.plans[1:]] == [
        {"short": 1, "long": 7},
        {"short": 1, "long": 7},
        {"short": 1, "long": 6},
    ]
    bench.run()
    assert bench.heard["long"].tokens == reference_answer(turn("long", range(20), new=2))
    assert bench.heard["short"].tokens == reference_answer(turn("short", 1, 2, 3, new=10))


def test_no_step_computes_more_tokens_than_the_limit() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=8, max_running=64))
    bench.run(*(turn(f"t{n}", range(n, n + 11), new=5) for n in range(20)))
    assert max(sum(spans(plan).values()) for plan in bench.runner.plans) == 8


def test_every_running_turn_decodes_in_every_step_however_many_there_are() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=4, max_running=64))
    bench.run(*(turn(f"t{n}", n, n, new=6) for n in range(9)))
    started: set[str] = set()
    ended: set[str] = set()
    for plan in bench.runner.plans:
        assert started - ended <= set(spans(plan))
        for span in plan.spans:
            if span.draw is not None:
                started.add(span.turn_id)
                if span.draw.index == 5:
                    ended.add(span.turn_id)


def test_turns_are_admitted_in_order_and_no_more_than_may_run() -> None:
    bench = Bench(limits=EngineLimits(max_running=2))
    for name in "abc":
        bench.add(turn(name, 7, 8, new=3))
    bench.step()
    assert set(spans(bench.runner.plans[0])) == {"a", "b"}
    stats = bench.engine.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    bench.run()
    assert bench.heard["c"].end == Finished("c", FinishReason.LENGTH)


def test_the_youngest_turn_gives_way_when_blocks_run_out_and_its_answer_is_the_same() -> None:
    runner = FakeRunner(num_blocks=6, block_size=2)
    bench = Bench(runner=runner)
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=7)
    turns = [turn(name, n, n + 1, sampling=sampling) for n, name in enumerate("abc")]
    bench.run(*turns)
    assert bench.engine.stats().preemptions_total > 0
    for each in turns:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)
    ends = [span.turn_id for plan in runner.plans for span in plan.spans if _is_last(span.draw)]
    assert ends[0] == "a", "the oldest turn is never the one to give way"


def _is_last(draw: object) -> bool:
    return getattr(draw, "index", None) == 7


def test_a_turn_waits_for_blocks_until_others_are_done() -> None:
    bench = Bench(runner=FakeRunner(num_blocks=4, block_size=2))
    bench.add(turn("big", range(6), new=2))
    bench.step()
    bench.add(turn("next", range(50, 56), new=2))
    bench.step()
    assert bench.engine.stats().waiting == 1
    bench.run()
    assert bench.heard["next"].tokens == reference_answer(turn("next", range(50, 56), new=2))


@pytest.mark.parametrize(
    ("num_tokens", "new", "fits"), [(16, 0, True), (15, 1, True), (16, 1, False), (17, 0, False)]
)
def test_a_turn_that_can_never_fit_fails_at_once(num_tokens: int, new: int, fits: bool) -> None:
    bench = Bench(runner=FakeRunner(num_blocks=8, block_size=4, max_context=16))
    heard = bench.add(turn("a", range(num_tokens), new=new))
    if fits:
        bench.run()
        assert heard.end == Finished("a", FinishReason.LENGTH)
    else:
        assert isinstance(heard.end, Failed)
        assert heard.end.code == "context_overflow"
        assert "16" in heard.end.message
        assert not bench.engine.has_work


def test_an_answer_ends_where_the_context_does() -> None:
    bench = Bench(runner=FakeRunner(num_blocks=8, block_size=4, max_context=16))
    [heard] = bench.run(turn("a", range(10), new=100))
    assert len(heard.tokens) == 6
    assert heard.end == Finished("a", FinishReason.LENGTH)


def test_one_turn_can_use_the_whole_pool() -> None:
    bench = Bench(runner=FakeRunner(num_blocks=4, block_size=4))
    [heard] = bench.run(turn("a", range(10), new=100))
    assert len(heard.tokens) == 6
    assert bench.engine.stats().preemptions_total == 0


def test_an_end_of_sequence_token_ends_the_answer_and_is_not_part_of_it() -> None:
    bench = Bench(runner=FakeRunner(eos_every=3))
    turns = [turn(f"t{n}", n, n + 1, new=20) for n in range(8)]
    for each, heard in zip(turns, bench.run(*turns), strict=True):
        assert heard.tokens == reference_answer(each, eos_every=3)
        assert heard.end == Finished(each.turn_id, FinishReason.STOP)


def test_an_end_of_sequence_token_can_be_ignored() -> None:
    bench = Bench(runner=FakeRunner(eos_every=1))
    sampling = Sampling(max_new_tokens=5, ignore_eos=True)
    [heard] = bench.run(turn("a", 7, sampling=sampling))
    assert len(heard.tokens) == 5


def test_a_turn_can_be_cancelled_in_any_state() -> None:
    bench = Bench(limits=EngineLimits(max_running=2, max_batch_tokens=4), answers_pixels=False)
    bench.add(turn("parked", ("cat", 4), 5))
    bench.add(turn("running", range(10), new=50))
    bench.add(turn("prefilling", range(50, 70)))
    bench.add(turn("waiting", 7, 8))
    for _ in range(4):
        bench.step()
    for name in ("parked", "running", "prefilling", "waiting"):
        bench.cancel(name)
        assert bench.heard[name].end == Finished(name, FinishReason.CANCELLED)
    assert not bench.engine.has_work
    assert bench.engine.stats().blocks_in_use == 0
    bench.cancel("waiting")
    bench.cancel("never heard of")


def test_a_cancelled_turn_leaves_the_retention_of_its_conversation_as_it_was() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", range(12), new=0, retain=("s", 5000.0)))
    bench.add(turn("b", range(12), 90, 91, 92, 93, new=50, retain=("s", 9000.0)))
    bench.step()
    bench.cancel("b")
    assert bench.engine.stats().blocks_retained == 3


def test_the_queueing_time_ends_with_the_first_step_that_computes_something() -> None:
    bench = Bench(limits=EngineLimits(max_running=1))
    bench.add(turn("a", 1, 2, new=2))
    bench.add(turn("b", 3, 4, new=1))
    bench.step()
    bench.clock.now += 0.25
    bench.run()
    prefilled = bench.heard["b"].prefilled
    assert prefilled is not None
    assert prefilled.queue_ms == pytest.approx(250)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (turn("a"), "at least one token"),
        (turn("a", 1, ("cat", 0)), "one token long"),
        (turn("a", 1, new=-1), "max_new_tokens"),
    ],
)
def test_a_malformed_turn_fails_alone(broken: object, message: str) -> None:
    bench = Bench()
    heard = bench.add(broken)  # type: ignore[arg-type]
    assert isinstance(heard.end, Failed)
    assert heard.end.code == "internal"
    assert message in heard.end.message


def test_figures_add_up() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    bench.run(turn("a", ("cat", 8), 5, new=3, retain=("s", 5000.0)))
    bench.run(turn("b", ("cat", 8), 6, new=3))
    stats = bench.engine.stats()
    assert stats.prompt_tokens_total == 18
    assert stats.cached_tokens_total == 8
    assert stats.generated_tokens_total == 6
    assert stats.images_encoded_total == 1
    assert stats.feature_hits_total == 0, "the second turn needed no features"
    assert stats.steps_total == len(bench.runner.plans)
    assert (stats.running, stats.waiting, stats.blocks_in_use) == (0, 0, 0)
    assert (stats.blocks_cached, stats.blocks_retained) == (4, 3), "two full ones, two tails"
    assert stats.feature_bytes == 8 * bench.runner.feature_bytes_per_token
