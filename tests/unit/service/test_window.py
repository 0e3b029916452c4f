"""Which turns the model is given: as arithmetic on turns of known sizes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.service.window import turns_given
from vlm_sessions.sessions.session import ImagePlace, SessionTurn

CONTEXT = 1000
PICTURE = (ImagePlace("digest", 0, 1),)


def turn(size: int, name: str = "", *, picture: bool = False) -> SessionTurn:
    return SessionTurn(name, PICTURE if picture else (), (0,) * size, (), "", "stop")


def conversation(*sizes: int) -> list[SessionTurn]:
    """The first turn has a picture."""
    return [turn(size, str(number), picture=not number) for number, size in enumerate(sizes)]


def names(turns: list[SessionTurn], *, new: int = 10, wanted: int = 10) -> list[str]:
    """Those that are given."""
    kept = turns_given(turns, num_new=new, num_wanted=wanted, max_context=CONTEXT)
    return [one.prompt for one in kept]


def test_all_turns_are_given_while_they_fit_with_prompt_and_answer() -> None:
    turns = conversation(200, 390, 390)
    assert names(turns) == ["0", "1", "2"]
    assert names(turns, new=11) == ["0", "2"]
    assert names(turns, wanted=11) == ["0", "2"]


def test_a_quarter_of_the_free_context_is_left_out_at_once() -> None:
    # 800 are free beside the first turn, so a cut has 200 at least: four of these turns.
    turns = conversation(200, *[50] * 16)
    assert names(turns) == ["0", *map(str, range(5, 17))]
    assert names(turns, new=200, wanted=1) == ["0", *map(str, range(9, 17))]


def test_turns_with_pictures_and_the_first_turn_stay() -> None:
    turns = [turn(100, "0"), turn(300, "1"), turn(100, "2", picture=True), turn(300, "3")]
    turns += [turn(300, "4")]
    assert names(turns) == ["0", "2", "3", "4"]


def test_a_long_answer_that_was_asked_for_costs_a_quarter_of_the_free_context_at_most() -> None:
    turns = conversation(200, 200, 200, 200)
    assert names(turns, new=0, wanted=200) == names(turns, new=0, wanted=5000) == list("0123")


def test_all_that_may_be_is_left_out_when_not_even_that_is_enough() -> None:
    assert names(conversation(200, 50, 50), new=900) == ["0"]
    assert names(conversation(1200, 50, 50)) == ["0"]


def test_a_last_piece_smaller_than_a_cut_is_left_out_turn_by_turn() -> None:
    turns = conversation(200, 50, 50, 50)
    assert names(turns, new=670, wanted=1) == ["0", "2", "3"]
    assert names(turns, new=730, wanted=1) == ["0", "3"]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=30),
    new=st.integers(1, 400),
    wanted=st.integers(1, 2000),
)
def test_what_is_given_fits_whenever_it_can_and_is_in_order(
    sizes: list[tuple[int, bool]], new: int, wanted: int
) -> None:
    turns = [turn(size, str(n), picture=picture) for n, (size, picture) in enumerate(sizes)]
    kept = turns_given(turns, num_new=new, num_wanted=wanted, max_context=CONTEXT)
    staying = [one for one in turns if one is turns[0] or one.images]
    dropped = [one for one in turns if one not in kept]
    movable = [one for one in turns if one not in staying]
    assert list(kept) == [one for one in turns if one in kept]
    assert all(one in kept for one in staying)
    assert dropped == movable[: len(dropped)], "the oldest are left out"
    free = max(0, CONTEXT - sum(one.num_tokens for one in staying))
    needed = sum(one.num_tokens for one in kept) + new + min(wanted, free // 4)
    assert needed <= CONTEXT or not [one for one in kept if one not in staying]


@given(st.lists(st.integers(1, 60), min_size=60, max_size=120))
def test_a_growing_conversation_keeps_its_beginning_for_many_turns(sizes: list[int]) -> None:
    """How often the beginning that is given changes: once for each cut, however small the turns."""
    turns = conversation(100, *sizes)
    beginnings = [
        names(turns[:length], new=30, wanted=50)[1:2] for length in range(2, len(turns) + 1)
    ]
    num_changes = sum(a != b for a, b in pairwise(beginnings))
    assert num_changes <= sum(sizes) / 225 + 1
