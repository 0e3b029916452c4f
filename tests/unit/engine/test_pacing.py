"""Nobody is starved: not who decodes by a long prompt, not a prompt by many who decode."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.helpers import Bench, turn
from vlm_sessions.engine.costs import Costs, Typical
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.pacing import MIN_PROMPT_TOKENS, Pacer
from vlm_sessions.engine.types import Plan

DECODE, TOKEN = 0.040, 0.002
"""Seconds of a step that decodes, and of a token of a prompt, of a machine like ours."""


def counts(plan: Plan) -> tuple[int, int]:
    """Turns that decode in a step, and tokens of prompts that it computes."""
    num_decodes = sum(s.draw is not None and s.draw.index > 0 for s in plan.spans)
    return num_decodes, sum(len(span.tokens) for span in plan.spans) - num_decodes


def timed_bench(
    seconds: Callable[[Plan], float], *, share: float = 0.5, num_blocks: int = 4000
) -> tuple[Bench, list[float]]:
    """An engine on a machine whose steps take so long, and the list of how long each took."""
    taken: list[float] = []

    def pass_time(plan: Plan) -> None:
        taken.append(seconds(plan))
        bench.clock.now += taken[-1]

    runner = FakeRunner(num_blocks=num_blocks, before_step=pass_time)
    bench = Bench(runner=runner, limits=EngineLimits(prefill_share=share))
    return bench, taken


def linear(plan: Plan) -> float:
    num_decodes, num_tokens = counts(plan)
    return (DECODE if num_decodes else 0.0) + TOKEN * num_tokens


def decode_beside_a_prompt(bench: Bench, *, num_streams: int = 1, length: int = 600) -> list[Plan]:
    """The plans of the steps in which a prompt is computed while others decode."""
    for number in range(num_streams):
        bench.add(turn(f"stream-{number}", number, 8, 9, new=400))
    for _ in range(5):
        bench.step()
    first = len(bench.runner.plans)
    heard = bench.add(turn("opener", range(1000, 1000 + length), new=1))
    while heard.prefilled is None:
        bench.step()
    return bench.runner.plans[first:]


@pytest.mark.parametrize("num_streams", [1, 8])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_step_beside_decoding_takes_no_more_than_its_share_longer(
    share: float, num_streams: int
) -> None:
    bench, taken = timed_bench(linear, share=share)
    plans = decode_beside_a_prompt(bench, num_streams=num_streams)
    mixed = [taken[-len(plans) :][n] for n, plan in enumerate(plans) if counts(plan)[1]]
    limit = max(DECODE * (1 + share), DECODE + TOKEN * MIN_PROMPT_TOKENS)
    assert max(mixed) <= limit + 1e-9
    assert median(mixed) > DECODE + (limit - DECODE) * 0.7, "and what it may take, it takes"


def test_without_a_share_a_prompt_is_computed_in_one_step() -> None:
    bench, taken = timed_bench(linear, share=0)
    plans = decode_beside_a_prompt(bench)
    assert [counts(plan) for plan in plans] == [(1, 600)]
    assert taken[-1] == pytest.approx(DECODE + 600 * TOKEN)


def test_while_nobody_decodes_a_prompt_gets_all_that_a_step_may_have() -> None:
    bench, _ = timed_bench(linear)
    bench.run(turn("a", range(2000), new=0))
    assert [counts(plan)[1] for plan in bench.runner.plans] == [1024, 976]


def test_a_prompt_comes_to_an_end_however_slow_its_tokens_are() -> None:
    def slow(plan: Plan) -> float:
        num_decodes, num_tokens = counts(plan)
        return DECODE * bool(num_decodes) + 100 * TOKEN * num_tokens

    bench, _ = timed_bench(slow)
    plans = decode_beside_a_prompt(bench, num_streams=8, length=100)
    assert len(plans) <= -(-100 // MIN_PROMPT_TOKENS) + 1


def test_the_oldest_prompt_is_computed_first() -> None:
    bench, _ = timed_bench(linear)
    bench.add(turn("stream", 7, 8, 9, new=400))
    for _ in range(5):
        bench.step()
    for name in ("first", "second"):
        start = 1000 if name == "first" else 2000
        bench.add(turn(name, range(start, start + 100), new=0))
    while bench.heard["second"].prefilled is None:
        bench.step()
        computed = {span.turn_id for span in bench.runner.plans[-1].spans}
        if bench.heard["first"].prefilled is None:
            assert "second" not in computed


def test_where_more_tokens_cost_nothing_a_prompt_soon_gets_many() -> None:
    """As on a GPU, where a step that decodes waits for memory, not for arithmetic."""

    def wide(plan: Plan) -> float:
        num_decodes, num_tokens = counts(plan)
        return max(DECODE * bool(num_decodes), TOKEN / 10 * num_tokens)

    bench, taken = timed_bench(wide)
    plans = decode_beside_a_prompt(bench, length=3000)
    assert len(plans) < 25
    chunks = [counts(plan)[1] for plan in plans]
    assert all(later <= 2 * max(chunks[: n + 1]) for n, later in enumerate(chunks[1:]))
    assert median(taken[-len(plans) :]) <= 1.5 * DECODE


def test_a_machine_that_slept_is_not_taken_for_a_slow_one() -> None:
    bench, _ = timed_bench(linear)
    before = decode_beside_a_prompt(bench)
    costs = bench.engine.scheduler._costs
    decodes = costs.decode_seconds(1, beside_encoding=False)
    for num_tokens in (0, 1):
        costs.note_step(10.0, num_decodes=1, num_prompt_tokens=num_tokens, beside_encoding=False)
    assert costs.decode_seconds(1, beside_encoding=False) == decodes
    first = len(bench.runner.plans)
    heard = bench.add(turn("again", range(5000, 5600), new=1))
    while heard.prefilled is None:
        bench.step()
    after = bench.runner.plans[first:]
    assert len(after) <= len(before) + 10, "a few small steps, and all is as it was"


def test_what_an_encode_beside_the_step_takes_counts_against_the_same_share() -> None:
    costs = Costs()
    pacer = Pacer(EngineLimits(), costs)
    for _ in range(20):
        costs.note_step(DECODE, num_decodes=1, num_prompt_tokens=0, beside_encoding=False)
        chunk = pacer.max_prompt_tokens(1, beside_encoding=False)
        costs.note_step(
            DECODE + chunk * TOKEN / 4,
            num_decodes=1,
            num_prompt_tokens=chunk,
            beside_encoding=False,
        )
    alone = pacer.max_prompt_tokens(1, beside_encoding=False)
    assert alone == pytest.approx(DECODE / 2 / (TOKEN / 4), abs=1)
    costs.note_step(DECODE * 1.3, num_decodes=1, num_prompt_tokens=0, beside_encoding=True)
    beside = pacer.max_prompt_tokens(1, beside_encoding=True)
    assert beside == pytest.approx(alone * 0.4, abs=1)
    assert pacer.max_prompt_tokens(1, beside_encoding=False) == alone


def test_nothing_is_known_at_the_start_and_nothing_divides_by_it() -> None:
    costs = Costs()
    assert costs.prefill_seconds(600) is None
    assert costs.encode_seconds(576) is None
    assert costs.decode_seconds(1, beside_encoding=False) is None
    assert costs.mixed_token_seconds() is None
    pacer = Pacer(EngineLimits(), costs)
    assert pacer.max_prompt_tokens(0, beside_encoding=False) == 1024
    assert pacer.max_prompt_tokens(3, beside_encoding=True) == MIN_PROMPT_TOKENS


def test_a_batch_of_a_size_not_seen_costs_what_the_nearest_one_does() -> None:
    costs = Costs()
    for num_turns, seconds in ((1, 0.04), (30, 0.09)):
        costs.note_step(seconds, num_decodes=num_turns, num_prompt_tokens=0, beside_encoding=False)
    asked = [costs.decode_seconds(n, beside_encoding=False) for n in (1, 2, 7, 8, 16, 64)]
    assert asked == [0.04, 0.04, 0.04, 0.09, 0.09, 0.09]
    assert costs.decode_seconds(1, beside_encoding=True) is None


def test_prompts_and_images_cost_what_they_typically_did() -> None:
    costs = Costs()
    for seconds in (9.0, 0.2, 0.2, 0.22):  # the first warms up
        costs.note_step(seconds, num_decodes=0, num_prompt_tokens=100, beside_encoding=False)
        costs.note_encode(seconds, num_tokens=576)
    costs.note_step(1.0, num_decodes=0, num_prompt_tokens=1, beside_encoding=False)
    costs.note_step(9.0, num_decodes=0, num_prompt_tokens=100, beside_encoding=True)
    assert costs.prefill_seconds(600) == pytest.approx(1.2)
    assert costs.encode_seconds(576) == pytest.approx(0.2)


@given(st.lists(st.floats(0.9, 1.1), min_size=8, max_size=40), st.data())
def test_a_few_absurd_samples_leave_the_typical_value_among_the_others(
    samples: list[float], data: st.DataObject
) -> None:
    typical = Typical()
    absurd = data.draw(st.sets(st.integers(0, len(samples) - 1), max_size=3))
    for number, sample in enumerate(samples):
        typical.add(1e4 if number in absurd else sample)
    assert typical.value is not None
    assert 0.9 <= typical.value <= 1.1


@settings(max_examples=100, deadline=None)
@given(
    share=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    step_seconds=st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=30),
    prompts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    news=st.lists(st.integers(0, 30), min_size=8, max_size=8),
)
def test_whatever_time_steps_take_every_turn_is_answered_and_the_same(
    share: float, step_seconds: list[float], prompts: list[int], news: list[int]
) -> None:
    bench, _ = timed_bench(
        lambda _: step_seconds[len(bench.runner.plans) % len(step_seconds)], share=share
    )
    turns = [
        turn(f"t{n}", range(100 * n, 100 * n + length), new=news[n])
        for n, length in enumerate(prompts)
    ]
    for each in turns:
        bench.add(each)
        bench.step()
    bench.run()
    for each in turns:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)
