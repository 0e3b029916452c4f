"""Clients take turns: nobody waits for another's long line, and nobody for ever."""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.helpers import Bench, turn
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.rounds import Rounds
from vlm_sessions.engine.types import Plan, Turn

TOKEN, STEP = 0.002, 0.040
"""Seconds of a token of a prompt, and of a step beside that."""


def of(client: str, each: Turn) -> Turn:
    return msgspec.structs.replace(each, client=client)


def machine(*, num_slots: int = 64, num_blocks: int = 4000) -> Bench:
    """An engine on a machine whose steps take time by what is computed in them."""

    def pass_time(plan: Plan) -> None:
        bench.clock.now += STEP + TOKEN * sum(len(span.tokens) for span in plan.spans)

    limits = EngineLimits(max_running=num_slots, max_batch_tokens=64)
    bench = Bench(runner=FakeRunner(num_blocks=num_blocks, before_step=pass_time), limits=limits)
    return bench


def question(number: int, *, new: int = 8) -> Turn:
    return turn(f"t{number}", range(100 * number, 100 * number + 50), new=new)


def first_tokens(bench: Bench) -> list[str]:
    """Who had a first token, in order."""
    return [
        span.turn_id
        for plan in bench.runner.plans
        for span in plan.spans
        if span.draw is not None and span.draw.index == 0
    ]


def begun(bench: Bench) -> list[str]:
    """The turns of which something was computed, in order."""
    return list(dict.fromkeys(span.turn_id for plan in bench.runner.plans for span in plan.spans))


@pytest.mark.parametrize("num_slots", [1, 4, 64])
@pytest.mark.parametrize("num_steps_before", [0, 1, 7, 60])
def test_a_client_with_100_queued_prompts_delays_another_by_no_more_than_one_turn(
    num_slots: int, num_steps_before: int
) -> None:
    alone = machine(num_slots=num_slots)
    alone.run(of("busy", question(0)))
    one_turn = alone.clock.now - 1000.0

    bench = machine(num_slots=num_slots)
    for number in range(100):
        bench.add(of("busy", question(number)))
    for _ in range(num_steps_before):
        bench.step()
    came_at, before = bench.clock.now, len(begun(bench))
    heard = bench.add(of("other", question(500)))
    while heard.prefilled is None:
        bench.step()
    assert begun(bench).index("t500") <= before + 1, "one turn of the busy client at most"
    # The prompt itself and one turn, in steps that others share.
    shared = 1 + 64 * TOKEN / STEP
    assert bench.clock.now - came_at <= 2 * one_turn * shared
    bench.run()
    assert heard.tokens == reference_answer(question(500))


def test_without_clients_turns_are_computed_in_the_order_in_which_they_came() -> None:
    bench = machine(num_slots=2)
    bench.run(*(question(number) for number in range(9)))
    assert first_tokens(bench) == [f"t{number}" for number in range(9)]


def test_two_busy_clients_are_computed_in_turn() -> None:
    bench = machine(num_slots=1)
    names = {f"t{n}": "ab"[n >= 5] for n in range(10)}
    bench.run(*(of(names[f"t{n}"], question(n)) for n in range(10)))
    assert "".join(names[turn_id] for turn_id in first_tokens(bench)) == "ab" * 5


def test_whose_line_is_long_gives_way_first_when_blocks_run_out() -> None:
    bench = machine(num_blocks=40)
    for number in range(2):
        bench.add(of("busy", question(number, new=40)))
    while len(first_tokens(bench)) < 2:
        bench.step()
    other = bench.add(of("other", turn("t9", 7, 8, 9, new=30)))
    bench.run()
    assert bench.engine.stats().preemptions_total > 0
    assert other.tokens == reference_answer(turn("t9", 7, 8, 9, new=30))
    decoded = [{s.turn_id for s in plan.spans} for plan in bench.runner.plans]
    first = next(n for n, ids in enumerate(decoded) if "t9" in ids)
    assert all("t9" in ids for ids in decoded[first : first + 30]), "it is never interrupted"


def test_pictures_of_a_client_are_encoded_after_the_first_of_another() -> None:
    runner = FakeRunner(num_blocks=4000, encode_steps=1)
    bench = Bench(runner=runner, limits=EngineLimits(max_images_encoding=1))
    for number in range(20):
        bench.add(of("busy", turn(f"t{number}", (f"busy-{number}", 8), number, new=1)))
    bench.step()
    bench.add(of("other", turn("t99", ("other", 8), 9, new=1)))
    bench.run()
    encoded = [image.digest for plan in runner.plans for image in plan.encode]
    assert encoded.index("other") <= 2, "what was begun, and one more"


def test_a_client_that_comes_back_is_not_made_to_pay_for_what_it_had() -> None:
    rounds = Rounds()
    for _ in range(3):
        rounds.begin(rounds.enter("a"))
    for _ in range(3):
        rounds.leave("a")
    again, new = rounds.enter("a"), rounds.enter("b")
    assert again < new
    assert again.round == new.round


@given(st.lists(st.sampled_from("aabc"), min_size=1, max_size=20))
def test_no_turn_waits_for_ever_while_a_new_client_comes_for_each_that_is_served(
    clients: list[str],
) -> None:
    """Each would be before it, if those who come were always put first."""
    rounds = Rounds()
    line = [rounds.enter(client) for client in clients]
    last = max(line)
    heapify(line)
    for number in range(2 * len(clients) ** 2 + 2):
        first = heappop(line)
        rounds.begin(first)
        if first == last:
            return
        heappush(line, rounds.enter(f"new-{number}"))
    raise AssertionError("it still waits")


def test_the_clients_are_those_of_the_turns() -> None:
    rounds = Rounds()
    rounds.enter("a")
    rounds.enter("a")
    rounds.check_integrity(Counter(a=2))
    rounds.leave("a")
    rounds.leave("a")
    rounds.check_integrity(Counter())
