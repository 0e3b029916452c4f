"""Prompts in a session: what is answered, recorded, refused, cancelled."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.fake_processor import encode
from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import collect, serving
from vlm_sessions.engine.types import Retention
from vlm_sessions.errors import (
    ContextOverflow,
    DeadlineExceeded,
    Draining,
    EngineLost,
    EngineUnavailable,
    InsufficientStorage,
    Internal,
    InvalidField,
    InvalidImage,
    ModelChanged,
    QueueFull,
    ReservedText,
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooManyImages,
    VlmError,
)
from vlm_sessions.protocol.schema import Answer, Generate, OpenSession, TextDelta

PICTURE = data_url(encoded("red"))
OTHER = data_url(encoded("blue", (64, 32)))


async def test_a_conversation_is_its_segments_with_the_answers_between(tmp_path: Path) -> None:
    async with serving(tmp_path, "one", "two") as harness:
        session = await harness.open(PICTURE, system="be brief")
        first = await harness.ask(session, "what?")
        second = await harness.ask(session, "and?")
        assert (first.text, second.text) == ("one", "two")
        assert first.usage.cached_tokens == 7
        assert first.usage.completion_tokens == 3
        before, after = harness.engine.turns
        assert after.tokens[: len(before.tokens) + 3] == before.tokens + encode("one")
        assert after.images == before.images
        assert second.usage.prompt_tokens == len(after.tokens)
        assert await harness.turns(session) == [("what?", "one"), ("and?", "two")]


async def test_images_may_come_with_any_prompt(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        session = await harness.open()
        await harness.ask(session, "a", images=(PICTURE,))
        await harness.ask(session, "b", images=(OTHER, PICTURE))
        described = await harness.service.describe(session)
        red, blue = described.images[0].sha256, described.images[1].sha256
        assert [one.images for one in described.turns] == [(red,), (blue, red)]
        spans = harness.engine.turns[-1].images
        assert [span.digest for span in spans] == [red, blue, red]
        assert all(harness.engine.turns[-1].tokens[span.start] == 0 for span in spans)
        await harness.restart()
        assert (await harness.service.describe(session)).images == described.images
        await harness.ask(session, "c")  # asks for the pixels of all of them


async def test_a_finished_prompt_is_in_the_journal_before_its_last_event(tmp_path: Path) -> None:
    async with serving(tmp_path, "hi") as harness:
        session = await harness.open()
        stream = await harness.stream(session)
        events = [await anext(stream.events) for _ in range(3)]
        assert isinstance(events[2], Answer)
        await harness.service._store._journal.close()  # as if killed here
        harness.service = harness.make_service()
        await harness.service.start()
        assert await harness.turns(session) == [("q", "hi")]


async def test_prompts_of_one_session_run_one_after_another_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, *"abcd") as harness:
        session, other = await harness.open(), await harness.open()
        answers = await asyncio.gather(*(harness.ask(session, f"q{n}") for n in range(4)))
        assert [answer.text for answer in answers] == list("abcd")
        assert harness.engine.max_in_flight == 1
        harness.engine.gate.clear()
        harness.engine.answers = ["one", "two"]
        both = [asyncio.create_task(harness.ask(one)) for one in (session, other)]
        await harness.engine.reached.wait()
        await asyncio.sleep(0.05)
        assert harness.engine.max_in_flight == 2
        harness.engine.gate.set()
        await asyncio.gather(*both)


async def test_a_full_queue_is_refused_and_frees_itself(tmp_path: Path) -> None:
    async with serving(tmp_path, max_queued_per_session=1, max_queued=3) as harness:
        harness.engine.gate.clear()
        session, other = await harness.open(), await harness.open()
        running = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()
        waiting = asyncio.create_task(harness.ask(session, "second"))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull, match="session") as refused:
            await harness.ask(session, "third")
        assert refused.value.retry_after
        elsewhere = asyncio.create_task(harness.ask(other))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull, match="service"):
            await harness.ask(await harness.open())
        assert harness.service.num_prompts == 3
        harness.engine.gate.set()
        await asyncio.gather(running, waiting, elsewhere)
        assert harness.service.num_prompts == 0
        await harness.ask(session)


async def test_cancel_gives_the_client_what_there_is_and_leaves_no_trace(tmp_path: Path) -> None:
    async with serving(tmp_path, "first", "long answer", "next") as harness:
        session = await harness.open()
        await harness.ask(session)
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session, "long"))
        await harness.engine.reached.wait()
        assert (await harness.service.cancel(session)).cancelled
        answer = await running
        assert (answer.finish_reason, answer.text) == ("cancelled", "l")
        assert answer.lifetime is not None
        assert harness.engine.cancelled
        assert await harness.turns(session) == [("q", "first")]
        assert not (await harness.service.cancel(session)).cancelled
        harness.engine.gate.set()
        assert (await harness.ask(session, "go on")).text == "next"


async def test_a_waiting_prompt_can_be_cancelled_by_its_request(tmp_path: Path) -> None:
    async with serving(tmp_path, "one") as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session, "first"))
        await harness.engine.reached.wait()
        waiting = asyncio.create_task(harness.ask(session, "second"))
        await asyncio.sleep(0.01)
        assert await harness.service.cancel_request("r-second")
        assert (await waiting).finish_reason == "cancelled"
        harness.engine.gate.set()
        assert (await running).text == "one"
        assert not await harness.service.cancel_request("r-second")


async def test_a_prompt_cancelled_before_its_first_step_still_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        session = await harness.open()
        stream = await harness.stream(session)
        first = asyncio.ensure_future(anext(stream.events))
        await asyncio.sleep(0)
        assert await harness.service.cancel_request("r-q")
        event = await first
        assert isinstance(event, Answer)
        assert event.finish_reason == "cancelled"
        assert (await harness.ask(session)).text == "yes"


@pytest.mark.parametrize("how", ["aclose", "task cancelled", "dropped"])
async def test_a_client_that_leaves_frees_the_session_without_a_trace(
    tmp_path: Path, how: str
) -> None:
    async with serving(tmp_path, "long answer", "next") as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        stream = await harness.stream(session)
        assert await anext(stream.events) == TextDelta(text="l")
        if how == "aclose":
            await stream.events.aclose()
        elif how == "task cancelled":
            task = asyncio.ensure_future(anext(stream.events))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            del stream
        harness.engine.gate.set()
        assert (await harness.ask(session, "then")).text == "next"
        assert await harness.turns(session) == [("then", "next")]
        assert harness.service.num_prompts == 0


async def test_a_client_that_leaves_before_the_last_piece_was_taken_leaves_no_trace(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "ab") as harness:
        session = await harness.open()
        stream = await harness.stream(session)
        await anext(stream.events)
        await anext(stream.events)
        await asyncio.sleep(0.01)  # the engine has long finished
        await stream.events.aclose()
        assert await harness.turns(session) == []


async def test_a_slow_client_is_ended_by_the_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path, "ab", prompt_timeout_seconds=0.05) as harness:
        session = await harness.open()
        stream = await harness.stream(session)
        await anext(stream.events)
        assert (await harness.ask(session, "other", stream=True)).text == "yes"
        await anext(stream.events)
        with pytest.raises(DeadlineExceeded):
            await anext(stream.events)
        assert await harness.turns(session) == [("other", "yes")]


async def test_a_prompt_that_runs_out_of_time_leaves_no_trace(tmp_path: Path) -> None:
    async with serving(tmp_path, "long", prompt_timeout_seconds=0.05) as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await harness.ask(session)
        harness.engine.gate.set()
        assert await harness.turns(session) == []
        assert (await harness.ask(session)).text == "yes"


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (EngineLost("gone"), EngineLost),
        (ContextOverflow("pool"), ContextOverflow),
        (RuntimeError("bug"), Internal),
    ],
)
async def test_a_failing_engine_is_told_at_once_and_changes_nothing(
    tmp_path: Path, failure: Exception, seen: type[VlmError]
) -> None:
    async with serving(tmp_path, "one", failure, "two") as harness:
        session = await harness.open(PICTURE)
        await harness.ask(session)
        with pytest.raises(seen):
            await harness.ask(session)
        assert (await harness.ask(session)).text == "two"
        assert len(await harness.turns(session)) == 2


async def test_a_prompt_waits_for_an_engine_that_is_being_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as harness:
        session = await harness.open()
        harness.engine.go_down()
        assert not harness.service.ready
        waiting = asyncio.create_task(harness.ask(session))
        await asyncio.sleep(0.05)
        harness.engine.go_up()
        assert (await waiting).text == "yes"
        harness.engine.go_down()
        monkeypatch.setattr("vlm_sessions.service.turns.ENGINE_WAIT_SECONDS", 0.0)
        with pytest.raises(EngineUnavailable) as refused:
            await harness.ask(session)
        assert refused.value.retry_after


async def test_a_full_journal_refuses_the_turn_and_the_session_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as harness:
        session = await harness.open()

        async def full(*_: object) -> None:
            raise InsufficientStorage("full")

        journal = harness.service._store._journal
        with monkeypatch.context() as patch:
            patch.setattr(journal, "append", full)
            with pytest.raises(InsufficientStorage):
                await harness.ask(session)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "touch", full)
            harness.clock.advance(harness.settings.session_idle_seconds / 2)
            stream = await harness.stream(session)
            with pytest.raises(InsufficientStorage):  # as the first event: a status is possible
                await anext(stream.events)
        assert await harness.turns(session) == []
        assert (await harness.ask(session)).text == "yes"


async def test_a_session_of_another_model_is_refused_and_kept_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        session = await harness.open(PICTURE)
        await harness.ask(session, "before")
    async with serving(tmp_path) as harness:
        harness.processor.fingerprint = "another"
        with pytest.raises(ModelChanged):
            await harness.ask(session)
        assert (await harness.ask(await harness.open(PICTURE))).text == "yes"
    async with serving(tmp_path) as harness:
        await harness.ask(session, "after")
        assert [prompt for prompt, _ in await harness.turns(session)] == ["before", "after"]


async def test_refused_prompts_leave_the_session_as_it_was(tmp_path: Path) -> None:
    settings = {"limit_max_new_tokens": 50, "max_images_per_session": 2, "max_prompt_chars": 3000}
    async with serving(tmp_path, **settings) as harness:
        session = await harness.open(PICTURE)
        before = await harness.service.describe(session)
        refusals: list[tuple[type[VlmError], dict[str, Any]]] = [
            (InvalidField, {"max_new_tokens": 51}),
            (ContextOverflow, {"text": "x" * 2000}),
            (ContextOverflow, {"text": "x" * 3001}),
            (ReservedText, {"text": "<image>"}),
            (TooManyImages, {"images": (PICTURE, OTHER)}),
            (TooManyImages, {"images": (PICTURE,) * 3}),
            (InvalidImage, {"images": (data_url(b"nonsense"),)}),
            (InvalidField, {"images": ("s3://bucket/key",)}),
        ]
        for error, fields in refusals:
            with pytest.raises(error):
                await harness.ask(session, **fields)
        assert await harness.service.describe(session) == before
        assert harness.engine.turns == []
        with pytest.raises(SessionNotFound):
            await harness.ask("f" * 32)


async def test_new_tokens_are_limited_to_what_fits_the_context(tmp_path: Path) -> None:
    async with serving(tmp_path, default_max_new_tokens=1000) as harness:
        harness.processor.max_context = 100
        harness.engine.max_context = 50
        await harness.restart()
        session = await harness.open()
        await harness.ask(session, "x" * 20)
        turn = harness.engine.turns[-1]
        assert turn.sampling.max_new_tokens == 50 - len(turn.tokens)
        with pytest.raises(ContextOverflow):
            await harness.ask(session, "x" * 30)


async def test_lifetimes_are_renewed_announced_and_kept_over_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path, session_idle_seconds=60, session_max_seconds=100) as harness:
        session = await harness.open()
        harness.clock.advance(50)
        stream = await harness.stream(session)
        assert stream.lifetime is None, "nothing is announced before it is true"
        _, answer = await collect(stream)
        assert stream.lifetime is not None
        assert stream.lifetime.expires_at == harness.clock.now + 50
        assert answer.lifetime == stream.lifetime
        expected = Retention(session, stream.lifetime.expires_at)
        assert harness.engine.turns[-1].retention == expected
        await harness.restart()
        harness.clock.advance(49)
        assert (await harness.service.describe(session)).lifetime == stream.lifetime
        harness.clock.advance(2)
        with pytest.raises(SessionExpired):
            await harness.ask(session)
        await harness.service.sweep()
        assert harness.engine.released == [session]


async def test_a_prompt_does_not_outlive_the_maximum_age_of_its_session(tmp_path: Path) -> None:
    async with serving(tmp_path, "long", session_max_seconds=1200) as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()
        harness.clock.advance(1200)
        await harness.service.sweep()
        assert (await running).finish_reason == "cancelled"
        assert harness.engine.released == [session]
        with pytest.raises(SessionExpired):
            await harness.ask(session)


async def test_a_lifetime_announced_with_the_first_event_is_journalled_by_then(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "long", session_idle_seconds=60) as harness:
        session = await harness.open()
        harness.clock.advance(50)
        harness.engine.gate.clear()
        stream = await harness.stream(session)
        await anext(stream.events)
        (kept,) = (await harness.service._store._journal.load()).sessions
        assert stream.lifetime is not None
        assert kept.expires_at >= stream.lifetime.expires_at
        await stream.events.aclose()


async def test_a_cancelled_answer_announces_no_lifetime_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: with a full disk the reply named a time that was never kept."""

    async def full(*_: object) -> None:
        raise InsufficientStorage("full")

    async with serving(tmp_path, "long", session_idle_seconds=60) as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        first = await harness.stream(session, "first")
        await anext(first.events)
        harness.clock.advance(50)
        second = await harness.stream(session, "second")
        waiting = asyncio.create_task(collect(second))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert harness.service.num_prompts == 2
        with monkeypatch.context() as patch:
            patch.setattr(harness.service._store._journal, "touch", full)
            assert await harness.service.cancel_request("r-second")
            _, answer = await waiting
        assert (answer.finish_reason, answer.lifetime) == ("cancelled", None)
        assert second.lifetime is None
        await first.events.aclose()


async def test_closing_cancels_what_runs_and_refuses_what_waits(tmp_path: Path) -> None:
    async with serving(tmp_path, "long") as harness:
        session = await harness.open(PICTURE)
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()
        waiting = asyncio.create_task(harness.ask(session, "second"))
        await asyncio.sleep(0.01)
        assert (await harness.service.close_session(session)).closed
        assert (await running).finish_reason == "cancelled"
        with pytest.raises(SessionClosed):
            await waiting
        assert harness.engine.released == [session]
        for use in (harness.ask, harness.service.describe, harness.service.close_session):
            with pytest.raises(SessionClosed):
                await use(session)


async def test_draining_refuses_what_is_new_and_finishes_what_runs(tmp_path: Path) -> None:
    async with serving(tmp_path, "long") as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()
        harness.service.begin_drain()
        assert not harness.service.ready
        with pytest.raises(Draining):
            await harness.ask(session)
        with pytest.raises(Draining):
            await harness.service.open(OpenSession())
        harness.engine.gate.set()
        assert (await running).text == "long"


async def test_an_announced_drain_refuses_nothing_yet(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        assert not harness.service.draining
        harness.service.announce_drain()
        assert harness.service.draining
        assert (await harness.ask(await harness.open())).text == "yes"
        harness.service.begin_drain()
        assert harness.service.draining


async def test_ending_the_service_tells_its_clients(tmp_path: Path) -> None:
    async with serving(tmp_path, "long") as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        running = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()
        await harness.service.close()
        with pytest.raises(Draining):
            await running


async def test_a_bug_met_while_a_prompt_is_wound_up_leaves_no_client_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, "long") as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        waiting = asyncio.create_task(harness.ask(session))
        await harness.engine.reached.wait()

        async def broken(_: str) -> None:
            raise RuntimeError("bug")

        monkeypatch.setattr(harness.service._store, "touch", broken)
        queued = asyncio.create_task(harness.ask(session, "second"))
        await asyncio.sleep(0.01)
        with structlog.testing.capture_logs() as lines:
            for request_id in ("r-q", "r-second"):
                assert await harness.service.cancel_request(request_id)
            async with asyncio.timeout(2):
                for prompt in (waiting, queued):
                    with pytest.raises(Internal):
                        await prompt
        logged = {(one["event"], one["request_id"], one["session_id"]) for one in lines}
        assert logged == {("prompt_failed", f"r-{which}", session) for which in ("q", "second")}
        assert harness.service.num_prompts == 0


@pytest.mark.parametrize("how", ["cancelled", "out of time", "left"])
async def test_a_long_use_that_came_to_nothing_renews_the_session_all_the_same(
    tmp_path: Path, how: str
) -> None:
    settings = {"prompt_timeout_seconds": 0.05} if how == "out of time" else {}
    async with serving(tmp_path, "long", session_idle_seconds=60, **settings) as harness:
        session = await harness.open()
        harness.engine.gate.clear()
        stream = await harness.stream(session)
        await anext(stream.events)
        harness.clock.advance(100)  # longer than the session lives without use
        await harness.service.sweep()
        if how == "left":
            await stream.events.aclose()
        elif how == "out of time":
            with pytest.raises(DeadlineExceeded):
                await anext(stream.events)
        else:
            assert (await harness.service.cancel(session)).cancelled
            event = await anext(stream.events)
            assert isinstance(event, Answer)
            assert event.lifetime is not None
            assert event.lifetime.expires_at == harness.clock.now + 60
        harness.engine.gate.set()
        harness.clock.advance(59)
        assert (await harness.ask(session)).text == "yes"


async def test_a_text_that_is_too_long_is_refused_before_an_image_is_fetched(
    tmp_path: Path,
) -> None:
    unreachable = "http://127.0.0.1:1/a.png"
    async with serving(tmp_path, max_prompt_chars=100) as harness:
        session = await harness.open()
        long = "x" * 101
        for use in (
            harness.ask(session, long, images=(unreachable,)),
            harness.chat(session, ("user", "x" * 99, unreachable), ("user", "yz")),
            harness.service.open(OpenSession(images=(unreachable,), system=long)),
            harness.service.generate(Generate(prompt="q", system=long), "r"),
        ):
            with pytest.raises(ContextOverflow, match=r"10[12] characters"):
                await use
