"""The client against the product, directly and through SageMaker's API."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.client.product import Gate
from tests.support.pictures import encoded
from vlm_sessions.client import (
    AsyncClient,
    Busy,
    Client,
    ConversationConflict,
    InvalidRequest,
    SessionEnded,
)

RED = encoded("red")
FEW_STEPS = 40
"""Of the engine: enough for an opening and a first token, far too few for 1,500."""
BLUE = encoded("blue")

ClientMaker = Callable[[], Client]
AsyncClientMaker = Callable[[], AsyncClient]


def test_the_main_job_is_three_lines(make_client: ClientMaker, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(RED)
    pieces = []
    with make_client().open(path) as chat:
        for piece in chat.stream("What is this?", max_new_tokens=12):
            pieces.append(piece)
    assert "".join(pieces)


async def test_the_main_job_is_as_short_asynchronously(
    make_async_client: AsyncClientMaker, tmp_path: Path
) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(RED)
    async with make_async_client() as client, client.open(path) as chat:
        pieces = [piece async for piece in chat.stream("What is this?", max_new_tokens=12)]
    assert "".join(pieces)


def test_an_opened_session_knows_its_images(make_client: ClientMaker) -> None:
    with make_client().open([RED, BLUE], system="Be brief.") as chat:
        assert [image.sha256 for image in chat.images] == [
            hashlib.sha256(picture).hexdigest() for picture in (RED, BLUE)
        ]
        assert {(image.width, image.height) for image in chat.images} == {(32, 32)}
        assert chat.describe().system == "Be brief."


def test_a_streamed_answer_is_the_same_as_a_whole_one(make_client: ClientMaker) -> None:
    client = make_client()
    with client.open(RED) as first, client.open(RED) as second:
        asked = first.ask("What is this?", max_new_tokens=12)
        stream = second.stream("What is this?", max_new_tokens=12)
        assert "".join(stream) == asked.text == stream.answer.text
    assert asked.usage.completion_tokens == 12
    assert asked.finish_reason == "length"


async def test_asynchronous_answers_are_those_of_the_synchronous_client(
    make_client: ClientMaker, make_async_client: AsyncClientMaker
) -> None:
    with make_client().open(RED) as chat:
        expected = chat.ask("What is this?", max_new_tokens=12).text
    async with make_async_client() as client:
        session = await client.open(RED)
        answer = await session.ask("What is this?", max_new_tokens=12)
        await session.close()
    assert answer.text == expected


def test_a_follow_up_computes_only_what_is_new(make_client: ClientMaker) -> None:
    with make_client().open(RED) as chat:
        first = chat.ask("What is this?", max_new_tokens=8)
        second = chat.ask("And now?", max_new_tokens=8)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.usage.cached_tokens >= first.usage.prompt_tokens


def test_a_picture_may_come_with_any_prompt(make_client: ClientMaker) -> None:
    with make_client().open() as chat:
        chat.ask("Hello?", max_new_tokens=2)
        chat.ask("And this?", images=BLUE, max_new_tokens=2)
        assert [turn.images for turn in chat.describe().turns] == [
            (),
            (hashlib.sha256(BLUE).hexdigest(),),
        ]


def test_a_description_tells_the_record_and_its_caches(make_client: ClientMaker) -> None:
    with make_client().open(RED) as chat:
        answer = chat.ask("What is this?", max_new_tokens=4)
        described = chat.describe()
        assert described.session_id == chat.id
        assert [(turn.prompt, turn.answer) for turn in described.turns] == [
            ("What is this?", answer.text)
        ]
        assert described.caches.kv_tokens > 0
        assert datetime.now(UTC) < described.expires_at <= described.max_expires_at


def test_a_fork_goes_its_own_way_from_what_was_said(make_client: ClientMaker) -> None:
    with make_client().open([RED, BLUE]) as chat:
        chat.ask("What is this?", max_new_tokens=8)
        with chat.fork() as fork:
            assert fork.id != chat.id
            assert fork.images == chat.images
            there = fork.ask("And there?", max_new_tokens=8)
            here = chat.ask("And there?", max_new_tokens=8)
            assert there.text == here.text
            fork.ask("Why?", max_new_tokens=1)
            assert len(fork.describe().turns) == 3
        assert len(chat.describe().turns) == 2, "it is open still"


async def test_asynchronous_sessions_fork_and_go_back(
    make_async_client: AsyncClientMaker,
) -> None:
    async with make_async_client() as client, client.open(RED) as chat:
        first = await chat.ask("What is this?", max_new_tokens=8)
        async with await chat.fork() as fork:
            assert await fork.rewind() == 0
            again = await fork.ask("What is this?", max_new_tokens=8)
            assert again.text == first.text
        assert len((await chat.describe()).turns) == 1


def test_turns_are_taken_back_images_and_all(make_client: ClientMaker) -> None:
    with make_client().open(RED) as chat:
        for question in ("One?", "Two?", "Three?"):
            chat.ask(question, images=BLUE, max_new_tokens=2)
        assert chat.rewind() == 2
        assert chat.rewind(turns=2) == 0
        assert len(chat.describe().images) == 1
        with pytest.raises(InvalidRequest, match="session has 0") as caught:
            chat.rewind()
        assert (caught.value.status, caught.value.code) == (422, "too_few_turns")


def test_a_session_that_is_answering_cannot_go_back(make_client: ClientMaker, gate: Gate) -> None:
    with make_client().open() as chat, ThreadPoolExecutor() as threads:
        chat.ask("Hello?", max_new_tokens=1)
        gate.shut()
        try:
            asked = threads.submit(chat.ask, "And now?", max_new_tokens=1)
            gate.wait_reached()
            with pytest.raises(ConversationConflict) as caught:
                chat.rewind()
        finally:
            gate.open()
        assert caught.value.code == "session_busy"
        asked.result(timeout=30.0)
        assert len(chat.describe().turns) == 2


def test_a_stream_that_was_left_is_no_turn_to_take_back(
    make_client: ClientMaker, gate: Gate
) -> None:
    with make_client().open(RED) as chat:
        chat.ask("What is this?", max_new_tokens=2)
        gate.shut_after(FEW_STEPS)
        for _ in chat.stream("Tell me everything.", max_new_tokens=1500, ignore_eos=True):
            break
        gate.open()
        assert chat.rewind() == 0


def test_a_closed_session_says_that_it_has_ended(make_client: ClientMaker) -> None:
    session = make_client().open(RED)
    session.close()
    session.close()
    with pytest.raises(SessionEnded) as caught:
        session.ask("Still there?")
    assert (caught.value.status, caught.value.code) == (410, "session_closed")
    with pytest.raises(SessionEnded):
        list(session.stream("Still there?"))


async def test_an_asynchronous_session_is_closed_by_its_context(
    make_async_client: AsyncClientMaker,
) -> None:
    async with make_async_client() as client:
        async with client.open(RED) as chat:
            session = chat
        with pytest.raises(SessionEnded):
            await session.ask("Still there?")


def test_a_session_is_closed_even_if_the_work_in_it_failed(make_client: ClientMaker) -> None:
    with pytest.raises(ZeroDivisionError), make_client().open(RED) as chat:
        raise ZeroDivisionError
    with pytest.raises(SessionEnded):
        chat.describe()


def test_a_refused_prompt_names_what_is_wrong_and_changes_nothing(
    make_client: ClientMaker,
) -> None:
    with make_client().open(RED) as chat:
        with pytest.raises(InvalidRequest) as caught:
            chat.ask("What?", top_p=7.0)
        assert caught.value.code == "invalid_field"
        assert "top_p" in caught.value.message
        with pytest.raises(InvalidRequest):
            list(chat.stream("What?", top_p=7.0))
        assert chat.describe().turns == ()


def test_bytes_that_are_no_picture_are_refused_at_the_opening(make_client: ClientMaker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_client().open(b"no picture at all")
    assert caught.value.status in (415, 422)


def test_an_answer_without_a_session_leaves_none_behind(make_client: ClientMaker) -> None:
    client = make_client()
    whole = client.generate("What is this?", RED, system="Be brief.", max_new_tokens=6)
    stream = client.stream("What is this?", RED, system="Be brief.", max_new_tokens=6)
    assert "".join(stream) == whole.text


async def test_an_asynchronous_answer_without_a_session_streams_too(
    make_async_client: AsyncClientMaker,
) -> None:
    async with make_async_client() as client:
        whole = await client.generate("What is this?", RED, max_new_tokens=6)
        stream = client.stream("What is this?", RED, max_new_tokens=6)
        assert "".join([piece async for piece in stream]) == whole.text
        assert stream.answer.usage.completion_tokens == 6


def test_leaving_a_stream_early_cancels_the_turn_without_a_trace(
    make_client: ClientMaker, gate: Gate
) -> None:
    with make_client().open(RED) as chat:
        gate.shut_after(FEW_STEPS)
        for _ in chat.stream("Tell me everything.", max_new_tokens=1500, ignore_eos=True):
            break
        gate.open()
        chat.ask("And now?", max_new_tokens=2)
        assert [turn.prompt for turn in chat.describe().turns] == ["And now?"]


async def test_closing_an_asynchronous_stream_early_cancels_the_turn(
    make_async_client: AsyncClientMaker, gate: Gate
) -> None:
    async with make_async_client() as client, client.open(RED) as chat:
        gate.shut_after(FEW_STEPS)
        async with chat.stream("Tell me all.", max_new_tokens=1500, ignore_eos=True) as stream:
            await anext(stream)
        gate.open()
        await chat.ask("And now?", max_new_tokens=2)
        assert [turn.prompt for turn in (await chat.describe()).turns] == ["And now?"]


async def test_a_stream_that_is_cut_off_by_a_time_out_is_cancelled(
    make_async_client: AsyncClientMaker, gate: Gate
) -> None:
    async with make_async_client() as client, client.open() as chat:
        gate.shut_after(FEW_STEPS)
        stream = chat.stream("Tell me everything.", max_new_tokens=1500, ignore_eos=True)
        await anext(stream)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    [piece async for piece in stream]
        finally:
            gate.open()
        await chat.ask("And now?", max_new_tokens=2)
        assert [turn.prompt for turn in (await chat.describe()).turns] == ["And now?"]


def test_a_turn_is_cancelled_from_another_thread(make_client: ClientMaker, gate: Gate) -> None:
    with make_client().open() as chat:
        chat.ask("Hello?", max_new_tokens=1)
        gate.shut()
        pieces: list[str] = []
        stream = chat.stream("Tell me everything.", max_new_tokens=1500, ignore_eos=True)
        reader = threading.Thread(target=lambda: pieces.extend(stream))
        reader.start()
        try:
            gate.wait_reached()
            assert chat.cancel()
        finally:
            gate.open()
        reader.join(timeout=30.0)
        assert stream.answer.finish_reason == "cancelled"
        assert not chat.cancel()
        assert len(chat.describe().turns) == 1


def test_a_session_with_enough_waiting_is_busy(make_client: ClientMaker, gate: Gate) -> None:
    with make_client().open() as chat, ThreadPoolExecutor() as threads:
        gate.shut()
        try:
            # One runs, one waits, and one is too many; nobody else can end while the gate is shut.
            asked = [threads.submit(chat.ask, "Hello?", max_new_tokens=1) for _ in range(3)]
            refused = next(as_completed(asked, timeout=30.0))
            with pytest.raises(Busy) as caught:
                refused.result()
        finally:
            gate.open()
        assert caught.value.code == "queue_full"
        answered = [future.result(timeout=30.0) for future in asked if future is not refused]
        assert [answer.finish_reason for answer in answered] == ["length", "length"]
        assert len(chat.describe().turns) == 2
