"""The record: ids, lifetimes, the conversation as tokens."""

import re

import pytest

from vlm_sessions.errors import MalformedSessionId
from vlm_sessions.sessions.session import (
    ImagePlace,
    Session,
    SessionTurn,
    check_session_id,
    new_session_id,
    open_session,
)


def make_turn(number: int, *, places: tuple[ImagePlace, ...] = ()) -> SessionTurn:
    return SessionTurn(f"q{number}", places, (number, 100), (number, 200), f"a{number}", "stop")


def make_session(now: float = 1000.0) -> Session:
    return open_session(
        model="m", now=now, idle_seconds=60, max_seconds=100, system=None, images=()
    )


def test_ids_fit_sagemakers_pattern_and_do_not_repeat() -> None:
    ids = {new_session_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", one) for one in ids)
    # what AWS's notebook asserts, and the 128 bits behind it
    assert all(re.fullmatch(r"ts-seq-[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize("text", ["", "-a", "a_b", "a b", "a-", "é", "a" * 300, "a" + "-" * 150])
def test_what_cannot_be_an_id_is_malformed(text: str) -> None:
    with pytest.raises(MalformedSessionId):
        check_session_id(text)


def test_use_renews_a_lifetime_up_to_its_maximum() -> None:
    session = make_session()
    assert session.expires_at == 1060
    assert session.used(1030).expires_at == 1090
    assert session.used(1050).expires_at == 1100 == session.max_expires_at


def test_an_announced_lifetime_never_shrinks_when_the_clock_steps_back() -> None:
    assert make_session().used(900).expires_at == 1060


def test_the_conversation_is_its_segments_and_answers_in_order() -> None:
    session = make_session()
    for number in (1, 2):
        place = ImagePlace(f"d{number}", 0, 1)
        session = session.with_turn(
            make_turn(number, places=(place,)), images=(), system=None, now=1001
        )
    assert session.tokens == (1, 100, 1, 200, 2, 100, 2, 200)
    assert session.places == (ImagePlace("d1", 0, 1), ImagePlace("d2", 4, 1))
