"""The record: ids, lifetimes, the conversation as tokens."""

import re
import secrets
from dataclasses import replace

import pytest

from vlm_sessions.errors import MalformedSessionId
from vlm_sessions.sessions.session import (
    ImagePlace,
    Session,
    SessionImage,
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


def test_an_id_is_128_bits_of_the_systems_random_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda num_bytes: "5a" * num_bytes)
    assert new_session_id() == "ts-seq-" + "5a" * 16, "all of it but the prefix"


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


def conversation() -> Session:
    """Two images at the opening, one more with the second of three turns."""
    seen = tuple(SessionImage(f"d{number}", 3, 4, 1, "PNG") for number in range(3))
    session = replace(make_session(), num_opening_images=2, images=seen[:2])
    opening = (ImagePlace("d0", 0, 1), ImagePlace("d1", 1, 1))
    session = session.with_turn(make_turn(1, places=opening), images=(), system="s", now=1001)
    third = make_turn(2, places=(ImagePlace("d2", 0, 1),))
    session = session.with_turn(third, images=seen[2:], system="s", now=1002)
    return session.with_turn(make_turn(3), images=(), system="s", now=1003)


def test_turns_that_are_taken_back_go_with_all_that_they_brought() -> None:
    session = conversation()
    states = [session.rewound(number, 1010) for number in (1, 2, 3)]
    assert [len(state.turns) for state in states] == [2, 1, 0]
    assert [len(state.images) for state in states] == [3, 2, 2]
    assert [state.system for state in states] == ["s", "s", None]
    assert states[2].pending_images == session.images[:2]
    assert {state.expires_at for state in states} == {1070}, "going back is a use"
    assert states[0].tokens == session.tokens[: len(states[0].tokens)]


def test_a_fork_has_seen_and_said_the_same_and_lives_its_own_life() -> None:
    session = conversation()
    fork = session.forked(now=1050, idle_seconds=30, max_seconds=90)
    assert fork.id != session.id
    assert (fork.tokens, fork.places) == (session.tokens, session.places)
    assert (fork.images, fork.system, fork.model) == (session.images, "s", session.model)
    assert (fork.created_at, fork.expires_at, fork.max_expires_at) == (1050, 1080, 1140)
    assert fork.rewound(3, 1051).system is None
    assert fork.rewound(3, 1051).images == session.images[:2]


def test_the_conversation_is_its_segments_and_answers_in_order() -> None:
    session = make_session()
    for number in (1, 2):
        place = ImagePlace(f"d{number}", 0, 1)
        session = session.with_turn(
            make_turn(number, places=(place,)), images=(), system=None, now=1001
        )
    assert session.tokens == (1, 100, 1, 200, 2, 100, 2, 200)
    assert session.places == (ImagePlace("d1", 0, 1), ImagePlace("d2", 4, 1))
