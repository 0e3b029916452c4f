"""What one turn is about to compute, others wait for; and nobody waits for nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.helpers import Bench, turn
from vlm_sessions.engine.fake import FakeRunner, fake_pixels, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Finished, FinishReason

PREFIX = range(100, 140)


def num_computed(bench: Bench) -> int:
    return sum(len(span.tokens) for plan in bench.runner.plans for span in plan.spans)


def test_fifty_who_open_one_image_at_the_same_moment_compute_it_once() -> None:
    bench = Bench(runner=FakeRunner(num_blocks=200, encode_steps=3))
    opens = [turn(f"t{n}", 7, ("cat", 20), 8, new=0) for n in range(50)]
    heard = bench.run(*opens)
    assert bench.engine.stats().images_encoded_total == 1
    assert sum(bool(each.asked_for) for each in heard) == 1, "pixels are asked for once"
    assert num_computed(bench) == 22
    cached = [each.prefilled.cached_tokens for each in heard if each.prefilled is not None]
    assert cached == [0, *[22] * 49]


def test_fifty_who_ask_different_things_about_it_share_its_blocks() -> None:
    bench = Bench(runner=FakeRunner(num_blocks=400))
    asks = [turn(f"t{n}", 7, ("cat", 19), 8, n, new=2) for n in range(50)]
    bench.run(*asks)
    assert num_computed(bench) <= 22 + 49 * 2 + 50, "20 in whole blocks, then each its own"
    for each in asks:
        assert bench.heard[each.turn_id].tokens == reference_answer(each)


def test_a_beginning_of_less_than_two_blocks_is_not_waited_for() -> None:
    bench = Bench(runner=FakeRunner(block_size=4))
    for name in "ab":
        bench.add(turn(name, range(4), ord(name), new=1))
    bench.step()
    assert {span.turn_id for span in bench.runner.plans[0].spans} == {"a", "b"}


def test_who_waits_goes_on_as_soon_as_the_common_part_is_there() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=16))
    long, short = turn("long", PREFIX, range(60), new=1), turn("short", PREFIX, 5, new=1)
    bench.add(long)
    bench.add(short)
    for _ in range(3):
        bench.step()
    assert bench.heard["long"].prefilled is None
    bench.step()
    assert bench.runner.plans[3].spans[-1].turn_id == "long"
    bench.run()
    assert bench.heard["short"].prefilled is not None
    assert bench.heard["short"].prefilled.cached_tokens == len(PREFIX)
    for each in (long, short):
        assert bench.heard[each.turn_id].tokens == reference_answer(each)


def test_when_who_is_waited_for_is_cancelled_the_next_one_takes_over() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=8), answers_pixels=False)
    turns = [turn(name, 7, ("cat", 20), 5, n, new=2) for n, name in enumerate("abc")]
    for each in turns:
        bench.add(each)
    assert [bench.heard[name].asked_for for name in "abc"] == [["cat"], [], []]
    bench.cancel("a")
    bench.step()
    assert [bench.heard[name].asked_for for name in "abc"] == [["cat"], ["cat"], []]


def test_what_a_cancelled_turn_had_computed_is_not_computed_again() -> None:
    bench = Bench(limits=EngineLimits(max_batch_tokens=8))
    for name in "ab":
        bench.add(turn(name, PREFIX, new=0))
    bench.step()
    bench.step()
    bench.cancel("a")
    bench.run()
    assert num_computed(bench) == len(PREFIX)
    assert bench.heard["b"].end == Finished("b", FinishReason.LENGTH)


def test_a_turn_does_not_wait_for_who_waits_for_an_image_that_it_does_not_share() -> None:
    bench = Bench(answers_pixels=False)
    bench.add(turn("opener", PREFIX, ("cat", 8), 5, new=1))
    [other] = bench.run(turn("other", PREFIX, 6, 7, new=1))
    assert other.end == Finished("other", FinishReason.LENGTH)
    assert bench.heard["opener"].end is None


def test_an_older_turn_never_waits_for_a_younger_one() -> None:
    bench = Bench(limits=EngineLimits(max_running=1))
    bench.add(turn("first", 7, 8, new=6))
    older, younger = (turn(name, PREFIX, new=1) for name in ("older", "younger"))
    bench.add(older)
    bench.add(younger)
    bench.run()
    computed = [span.turn_id for plan in bench.runner.plans for span in plan.spans]
    assert computed.index("older") < computed.index("younger")


openings = st.lists(st.sampled_from(["red", "blue"]), max_size=3)


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(st.tuples(openings, st.integers(0, 12), st.integers(0, 3)), max_size=8),
    data=st.data(),
    num_slots=st.integers(1, 5),
    encode_steps=st.integers(0, 3),
)
def test_whoever_is_cancelled_or_preempted_the_others_come_to_their_end(
    turns: list[tuple[list[str], int, int]], data: st.DataObject, num_slots: int, encode_steps: int
) -> None:
    bench = Bench(
        runner=FakeRunner(num_blocks=14, block_size=3, encode_steps=encode_steps),
        limits=EngineLimits(max_running=num_slots, max_batch_tokens=7),
        answers_pixels=False,
    )
    asked = [
        turn(
            f"t{n}", range(8), *((name, 4) for name in opening), range(200, 200 + more), 6, new=new
        )
        for n, (opening, more, new) in enumerate(turns)
    ]
    alive = {each.turn_id: each for each in asked}
    for each in asked:
        bench.add(each)
    for _ in range(2000):
        if not alive:
            break
        if data.draw(st.integers(0, 9), "cancel") == 0:
            gone = data.draw(st.sampled_from(sorted(alive)))
            bench.cancel(gone)
        if data.draw(st.booleans(), "answer"):
            _answer_pixels(bench)
        if bench.engine.has_work:
            bench.step()
        else:
            _answer_pixels(bench)
        alive = {name: each for name, each in alive.items() if bench.heard[name].end is None}
    assert not alive
    for each in asked:
        heard = bench.heard[each.turn_id]
        assert isinstance(heard.end, Finished)
        if heard.end.reason is FinishReason.LENGTH:
            assert heard.tokens == reference_answer(each)


def _answer_pixels(bench: Bench) -> None:
    for heard in bench.heard.values():
        for digest in heard.asked_for:
            if heard.end is None:
                bench.engine.put_pixels(fake_pixels(digest))
