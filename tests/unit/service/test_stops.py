"""Stop strings: what clients see, and what later turns see."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_processor import FakeProcessor, encode
from tests.unit.service.harness import collect, serving
from vlm_sessions.service.stops import StopFilter, num_tokens_within

TEXT = st.text("ab\nc", max_size=30)
STOPS = st.lists(st.text("ab\nc", min_size=1, max_size=4), max_size=4)


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(TEXT, max_size=8), stops=STOPS)
def test_the_pieces_make_the_text_before_the_first_stop_whatever_their_borders(
    pieces: list[str], stops: list[str]
) -> None:
    stop_filter = StopFilter(stops)
    kept = "".join([stop_filter.push(piece) for piece in pieces]) + stop_filter.flush()
    whole = "".join(pieces)
    assert whole.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert stop_filter.stopped == any(stop in whole for stop in stops)
    if not stop_filter.stopped:
        assert kept == whole
    else:
        assert any(whole.startswith(stop, len(kept)) for stop in stops)


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(TEXT, max_size=8), stops=STOPS)
def test_nothing_is_held_back_that_is_no_beginning_of_a_stop(
    pieces: list[str], stops: list[str]
) -> None:
    stop_filter = StopFilter(stops)
    given_out = ""
    for number, piece in enumerate(pieces):
        given_out += stop_filter.push(piece)
        if stop_filter.stopped:
            return
        held = "".join(pieces[: number + 1])[len(given_out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_the_tokens_kept_say_no_more_than_the_text_kept() -> None:
    decode = FakeProcessor().decode
    tokens = encode("one é two")
    assert num_tokens_within(tokens, "one ", decode) == 4
    assert num_tokens_within(tokens, "one é", decode) == 6
    assert num_tokens_within(tokens, "", decode) == 0
    assert num_tokens_within(tokens, "one é two", decode) == len(tokens)


async def test_a_stop_string_ends_answer_turn_and_record(tmp_path: Path) -> None:
    async with serving(tmp_path, "red. STOP blue", "next") as harness:
        session = await harness.open()
        pieces, answer = await collect(await harness.stream(session, stop=("STOP", " S", "ST ")))
        assert (answer.text, answer.finish_reason) == ("red.", "stop")
        assert pieces == list("red.")
        assert answer.usage.completion_tokens == 6
        assert harness.engine.cancelled  # the engine need not go on
        await harness.ask(session, "and")
        first, second = harness.engine.turns
        recorded = second.tokens[len(first.tokens) :]
        assert recorded[:4] == encode("red.")
        assert recorded[4] != encode(" ")[0]
        assert await harness.turns(session) == [("q", "red."), ("and", "next")]


async def test_text_held_back_comes_when_the_answer_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, "say STO") as harness:
        session = await harness.open()
        _, answer = await collect(await harness.stream(session, stop=("STOP",)))
        assert (answer.text, answer.finish_reason) == ("say STO", "stop")


async def test_an_answer_that_is_cut_inside_a_character_shows_it(tmp_path: Path) -> None:
    async with serving(tmp_path, "é", "ok") as harness:
        session = await harness.open()
        answer = await harness.ask(session, max_new_tokens=1)
        assert (answer.text, answer.finish_reason) == ("\ufffd", "length")
