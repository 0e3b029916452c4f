"""Chat messages in a session, and without one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_processor import encode
from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import Harness, collect, message, serving
from vlm_sessions.errors import ConversationMismatch, InvalidField
from vlm_sessions.protocol.schema import Chat

PICTURE = data_url(encoded("red"))
OTHER = data_url(encoded("blue"))
PAST = (("user", "q1", PICTURE), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with serving(tmp_path, "a1", "a2", "a3") as harness:
        yield harness


async def after_two_turns(harness: Harness, **options: Any) -> str:
    session = await harness.open(**options)
    await harness.ask(session, "q1", images=(PICTURE,))
    await harness.ask(session, "q2")
    return session


async def test_messages_that_hold_only_something_new_are_appended(harness: Harness) -> None:
    session = await after_two_turns(harness)
    await harness.chat(session, ("user", "q3"))
    assert await harness.turns(session) == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]


async def test_messages_that_begin_with_the_conversation_continue_it(harness: Harness) -> None:
    session = await after_two_turns(harness)
    await harness.chat(session, *PAST, ("user", "q3", OTHER))
    assert await harness.turns(session) == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]
    assert len((await harness.service.describe(session)).images) == 2


async def test_answers_are_compared_without_the_space_around_them(harness: Harness) -> None:
    session = await after_two_turns(harness)
    await harness.chat(session, PAST[0], ("assistant", " a1\n"), *PAST[2:], ("user", "q3"))
    assert len(await harness.turns(session)) == 3


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((("user", "other", PICTURE), *PAST[1:]), "messages[0] (role user)"),
        ((PAST[0], ("assistant", "other"), *PAST[2:]), "messages[1] (role assistant)"),
        ((("user", "q1", OTHER), *PAST[1:]), "messages[0] (role user)"),
        ((("user", "q1"), *PAST[1:]), "messages[0] (role user)"),
        (PAST[:2], "1 answered questions, the session 2"),
        ((*PAST, ("user", "q3"), ("assistant", "a3")), "3 answered questions"),
        ((("system", "new"), *PAST), "messages[0] (role system)"),
        ((*PAST, ("system", "late")), "messages[4]"),
        ((("assistant", "a0"), *PAST), "messages[0]"),
        ((PAST[0], ("assistant", "a1"), ("assistant", "a1")), "messages[2]"),
    ],
)
async def test_anything_else_is_a_conflict_that_says_what_differs(
    harness: Harness, messages: Any, said: str
) -> None:
    session = await after_two_turns(harness)
    before = await harness.service.describe(session)
    with pytest.raises(ConversationMismatch) as refused:
        await harness.chat(session, *messages, ("user", "secret question"))
    assert said in refused.value.message
    assert "secret" not in refused.value.message
    assert await harness.service.describe(session) == before


async def test_a_system_text_must_be_the_sessions(harness: Harness) -> None:
    session = await after_two_turns(harness, system="be brief")
    await harness.chat(session, ("system", "be brief"), ("user", "q3"))
    with pytest.raises(ConversationMismatch):
        await harness.chat(session, ("system", "be long"), ("user", "q4"))


async def test_an_empty_session_takes_the_system_text_of_its_first_messages(
    harness: Harness,
) -> None:
    session = await harness.open(PICTURE)
    await harness.chat(session, ("system", "be brief"), ("user", "q1"))
    await harness.restart()
    described = await harness.service.describe(session)
    assert described.system == "be brief"
    assert harness.engine.turns[0].tokens[1:9] == encode("be brief")


async def test_images_of_the_opening_may_be_repeated_in_the_first_message_or_not(
    harness: Harness,
) -> None:
    for repeats in (True, False):
        session = await harness.open(PICTURE)
        opening = (PICTURE,) if repeats else ()
        first = await harness.chat(session, ("user", "q1", *opening))
        past = (("user", "q1", *opening), ("assistant", first.text))
        await harness.chat(session, *past, ("user", "q2"))
        described = await harness.service.describe(session)
        assert [len(turn.images) for turn in described.turns] == [1, 0]


async def test_messages_of_the_user_in_a_row_are_one_question(harness: Harness) -> None:
    session = await harness.open()
    await harness.chat(session, ("user", "look"), ("user", "what?"))
    again = (("user", "look"), ("user", "what?"), ("assistant", "a1"), ("user", "and?"))
    await harness.chat(session, *again)
    assert await harness.turns(session) == [("look\nwhat?", "a1"), ("and?", "a2")]


@pytest.mark.parametrize(
    "messages",
    [
        (("user", "q"), ("assistant", "a")),
        (("assistant", "a"), ("user", "q")),
        (("user", "q"), ("system", "s"), ("user", "q")),
        (("user", "  "),),
    ],
)
async def test_messages_without_a_session_must_be_a_conversation_too(
    harness: Harness, messages: Any
) -> None:
    command = Chat(messages=tuple(message(*one) for one in messages))
    with pytest.raises(InvalidField):
        await collect(await harness.service.generate(command, "r"))


async def test_a_chat_without_a_session_is_answered_from_its_messages_alone(
    harness: Harness,
) -> None:
    command = Chat(messages=tuple(message(*one) for one in (("system", "s"), *PAST, ("user", "q"))))
    stream = await harness.service.generate(command, "r")
    assert stream.lifetime is None
    _, answer = await collect(stream)
    assert (answer.text, answer.lifetime) == ("a1", None)
    (turn,) = harness.engine.turns
    assert turn.retention is None
    assert len(turn.images) == 1
    assert encode("a2") == turn.tokens[-6:-4]
