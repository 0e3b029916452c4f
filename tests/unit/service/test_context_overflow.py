"""A session that outgrows the model's context: an error, or its oldest turns are left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.fake_processor import encode
from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import Harness, collect, message, serving
from vlm_sessions.errors import ContextOverflow
from vlm_sessions.processing import ImageRef
from vlm_sessions.protocol.schema import Chat, ChatMessage, RewindSession

PICTURE = data_url(encoded("red"))
OTHER = data_url(encoded("blue", (64, 32)))
CONTEXT = 400
ANSWER = "y" * 20


@asynccontextmanager
async def talking(
    directory: Path, *, overflow: str = "drop_oldest", num_turns: int = 0
) -> AsyncIterator[tuple[Harness, str]]:
    """A service of a small context, and a session with a picture and so many turns of 62 tokens."""
    async with serving(
        directory, *[ANSWER] * 40, context_overflow=overflow, default_max_new_tokens=20
    ) as harness:
        harness.engine.max_context = CONTEXT
        await harness.restart()
        session = await harness.open(PICTURE, system="be brief")
        for number in range(num_turns):
            await harness.ask(session, question(number))
        yield harness, session


def question(number: int) -> str:
    return f"{number:02}".ljust(39, "?")


def conversation(harness: Harness, session: str, *numbers: int) -> tuple[int, ...]:
    """Tokens of the conversation that has only these turns, the last one without its answer."""
    (image, *_) = harness.service._store.get(session).images
    tokens: tuple[int, ...] = ()
    for number in numbers:
        if tokens:
            tokens += encode(ANSWER)
        tokens += harness.processor.encode_turn(
            first=not tokens,
            system="be brief",
            text=question(number),
            images=() if tokens else (ImageRef(image.digest, image.num_tokens),),
        ).tokens
    return tokens


async def test_by_default_a_conversation_that_no_longer_fits_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path, overflow="error", num_turns=6) as (harness, session):
        before = await harness.turns(session)
        with pytest.raises(ContextOverflow) as refused:
            await harness.ask(session, question(6))
        assert "open a new session" in refused.value.message
        assert "VLM_CONTEXT_OVERFLOW=drop_oldest" in refused.value.message
        assert await harness.turns(session) == before


async def test_the_oldest_turns_are_left_out_and_the_picture_and_the_system_text_stay(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path, num_turns=6) as (harness, session):
        answer = await harness.ask(session, question(6))
        assert answer.usage.dropped_turns == 2
        given = harness.engine.turns[-1]
        assert given.tokens == conversation(harness, session, 0, 3, 4, 5, 6)
        (picture,) = given.images
        assert picture == harness.engine.turns[0].images[0]
        assert answer.usage.prompt_tokens == len(given.tokens)


async def test_the_record_keeps_every_turn_and_says_what_is_left_out(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=8) as (harness, session):
        described = await harness.service.describe(session)
        assert [turn.prompt for turn in described.turns] == [question(n) for n in range(8)]
        assert described.dropped_turns == 4
        assert described.tokens == len(conversation(harness, session, 0, 5, 6, 7) + encode(ANSWER))
        assert described.caches.kv_tokens == described.tokens


async def test_several_turns_are_left_out_at_once_so_that_the_beginning_stays(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path, num_turns=10) as (harness, session):
        dropped = []
        for number in range(10, 14):
            dropped.append((await harness.ask(session, question(number))).usage.dropped_turns)
        earlier = [turn.tokens for turn in harness.engine.turns]
        changes = sum(a != b for a, b in pairwise(dropped))
        assert changes <= 2
        for (before, dropped_before), (after, dropped_after) in pairwise(
            zip(earlier[-4:], dropped, strict=True)
        ):
            grew = after[: len(before)] == before
            assert grew == (dropped_before == dropped_after)


async def test_what_is_left_out_is_the_same_after_a_restart_and_in_a_fork(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=7) as (harness, session):
        fork = (await harness.service.fork(session)).lifetime.session_id
        await harness.ask(session, question(7))
        await harness.ask(fork, question(7))
        await harness.service.rewind(session, RewindSession(turns=1))
        await harness.restart()
        await harness.ask(session, question(7))
        one, other, again = harness.engine.turns[-3:]
        assert one.tokens == other.tokens == again.tokens
        assert one.images == other.images == again.images


async def test_turns_that_were_left_out_are_given_again_after_a_rewind(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=8) as (harness, session):
        await harness.service.rewind(session, RewindSession(turns=5))
        answer = await harness.ask(session, question(3))
        assert answer.usage.dropped_turns == 0
        assert harness.engine.turns[-1].tokens == conversation(harness, session, 0, 1, 2, 3)


async def test_a_picture_that_came_later_stays_with_its_turn(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=2) as (harness, session):
        await harness.ask(session, "and this?", images=(OTHER,))
        for number in range(3, 9):
            await harness.ask(session, question(number))
        given = harness.engine.turns[-1]
        digests = [image.digest for image in harness.service._store.get(session).images]
        assert [span.digest for span in given.images] == digests
        assert all(
            not any(given.tokens[span.start : span.start + span.length]) for span in given.images
        )
        assert encode("and this?") == tuple(
            given.tokens[given.images[1].start + given.images[1].length :][:9]
        )


async def test_what_does_not_even_fit_without_the_oldest_turns_is_an_error(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=4) as (harness, session):
        with pytest.raises(ContextOverflow, match="all turns are left out already but the first"):
            await harness.ask(session, "?" * 340)
        assert len(await harness.turns(session)) == 4
        assert (await harness.ask(session, question(4))).text == ANSWER


async def test_a_fork_of_a_session_that_has_outgrown_its_context_is_computed_ahead_as_given(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path, num_turns=8) as (harness, session):
        harness.settings = harness.settings.model_copy(update={"prefill_on_open": True})
        await harness.restart()
        fork = (await harness.service.fork(session)).lifetime.session_id
        await harness.service._prefills.done(fork)
        (prefill,) = harness.engine.prefills
        assert prefill.tokens == conversation(harness, session, 0, 5, 6, 7) + encode(ANSWER)


def history(num_turns: int) -> list[ChatMessage]:
    """The first turns as a chat client sends them again."""
    messages: list[ChatMessage] = []
    for number in range(num_turns):
        messages += [message("user", question(number)), message("assistant", ANSWER)]
    return messages


async def test_a_chat_client_may_still_send_the_whole_conversation(tmp_path: Path) -> None:
    async with talking(tmp_path, num_turns=8) as (harness, session):
        command = Chat(messages=(*history(8), message("user", question(8))))
        _, answer = await collect(await harness.service.prompt(session, command, "r"))
        assert answer.usage.dropped_turns > 0
        assert len(await harness.turns(session)) == 9


async def test_without_a_session_nothing_is_left_out(tmp_path: Path) -> None:
    async with talking(tmp_path) as (harness, _):
        command = Chat(messages=(*history(8), message("user", "?")))
        stream = await harness.service.generate(command, "r")
        with pytest.raises(ContextOverflow) as refused:
            await anext(stream.events)
        assert "left out" not in refused.value.message
