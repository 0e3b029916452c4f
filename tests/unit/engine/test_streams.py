"""One turn as a stream, over an engine in a thread; the process shares all of this."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.engine.helpers import turn
from vlm_sessions.engine.fake import FakeRunner, fake_pixels, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.local import LocalEngine
from vlm_sessions.engine.types import (
    Event,
    Finished,
    FinishReason,
    PixelImage,
    Plan,
    Prefilled,
    TokenOut,
)
from vlm_sessions.errors import (
    ContextOverflow,
    EngineLost,
    EngineUnavailable,
    ImageUnreachable,
    Internal,
)


class Gate:
    """Holds a runner before each step until opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, _: Plan) -> None:
        self.reached.set()
        self._open.wait()

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def started(
    runner: FakeRunner, limits: EngineLimits | None = None
) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(lambda: runner, limits or EngineLimits())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def pixels(digest: str) -> PixelImage:
    return fake_pixels(digest)


async def tokens_of(stream: AsyncIterator[Event]) -> list[int]:
    return [event.token async for event in stream if isinstance(event, TokenOut)]


async def test_a_stream_begins_with_prefilled_and_ends_with_finished() -> None:
    asked = turn("a", ("cat", 4), 5, new=3)
    async with started(FakeRunner()) as engine:
        events = [event async for event in engine.submit(asked, pixels)]
    assert [type(event) for event in events] == [Prefilled, TokenOut, TokenOut, TokenOut, Finished]
    assert [e.token for e in events if isinstance(e, TokenOut)] == reference_answer(asked)


async def test_leaving_a_stream_cancels_its_turn() -> None:
    async with started(FakeRunner(num_blocks=1000, step_seconds=0.001)) as engine:
        stream = engine.submit(turn("a", 7, new=3000), pixels)
        async for event in stream:
            if isinstance(event, TokenOut):
                break
        await stream.aclose()  # type: ignore[attr-defined]
        await until_idle(engine)
        assert (await engine.stats()).generated_tokens_total < 3000


async def test_cancelling_the_task_that_reads_a_stream_cancels_its_turn() -> None:
    async with started(FakeRunner(num_blocks=1000, step_seconds=0.001)) as engine:
        first = asyncio.Event()

        async def read() -> None:
            async for _ in engine.submit(turn("a", 7, new=3000), pixels):
                first.set()

        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        await asyncio.wait({task})
        await until_idle(engine)


async def until_idle(engine: LocalEngine) -> None:
    """Each round trip through the engine takes at most one step."""
    async with asyncio.timeout(10):
        while (await engine.stats()).running:
            pass


async def test_a_cancelled_turn_ends_its_stream_with_cancelled() -> None:
    async with started(FakeRunner(num_blocks=1000, step_seconds=0.001)) as engine:
        stream = engine.submit(turn("a", 7, new=3000), pixels)
        await anext(stream)
        await engine.cancel("a")
        *_, last = [event async for event in stream]
        assert last == Finished("a", FinishReason.CANCELLED)


async def test_what_the_pixel_source_raises_ends_the_stream_and_the_turn() -> None:
    async def unreachable(digest: str) -> PixelImage:
        raise ImageUnreachable(f"{digest} is gone")

    async with started(FakeRunner()) as engine:
        with pytest.raises(ImageUnreachable, match="cat is gone"):
            await tokens_of(engine.submit(turn("a", ("cat", 4), 5), unreachable))
        assert (await engine.stats()).waiting == 0


@pytest.mark.parametrize(
    "wrong",
    [fake_pixels("dog"), PixelImage("cat", (3,), b"too short")],
    ids=["another image", "too few bytes"],
)
async def test_broken_pixels_never_reach_the_device(wrong: PixelImage) -> None:
    async def source(_: str) -> PixelImage:
        return wrong

    runner = FakeRunner()
    async with started(runner) as engine:
        with pytest.raises(Internal):
            await tokens_of(engine.submit(turn("a", ("cat", 4), 5), source))
    assert runner.plans == []


async def test_a_source_that_fails_leaves_other_turns_on_the_same_image_alone() -> None:
    release = asyncio.Event()

    async def late(digest: str) -> PixelImage:
        await release.wait()
        return fake_pixels(digest)

    async def broken(_: str) -> PixelImage:
        raise KeyError

    asked = turn("b", ("cat", 4), 5)
    async with started(FakeRunner()) as engine:
        failing = asyncio.create_task(tokens_of(engine.submit(turn("a", ("cat", 4), 5), broken)))
        waiting = asyncio.create_task(tokens_of(engine.submit(asked, late)))
        with pytest.raises(Internal):
            await failing
        release.set()
        assert await waiting == reference_answer(asked)


async def test_a_slow_reader_of_one_stream_does_not_hold_up_another() -> None:
    async with started(FakeRunner()) as engine:
        unread = engine.submit(turn("a", 7, new=50), pixels)
        await anext(unread)
        other = turn("b", 8, new=20)
        assert await tokens_of(engine.submit(other, pixels)) == reference_answer(other)
        assert len(await tokens_of(unread)) == 50


async def test_a_turn_that_cannot_fit_raises_context_overflow() -> None:
    async with started(FakeRunner(max_context=8)) as engine:
        with pytest.raises(ContextOverflow, match="8"):
            await tokens_of(engine.submit(turn("a", range(9)), pixels))


async def test_two_streams_cannot_have_one_turn_id() -> None:
    async with started(FakeRunner(step_seconds=0.001)) as engine:
        stream = engine.submit(turn("a", 7, new=100), pixels)
        await anext(stream)
        with pytest.raises(Internal, match="in flight already"):
            await tokens_of(engine.submit(turn("a", 7), pixels))
        assert len(await tokens_of(stream)) == 100


async def test_an_engine_that_fails_in_process_loses_its_turns_and_can_be_started_again() -> None:
    runners = [FakeRunner(fail_at_step=2), FakeRunner()]
    engine = LocalEngine(lambda: runners.pop(0), EngineLimits())
    await engine.start()
    with pytest.raises(EngineLost):
        await tokens_of(engine.submit(turn("a", 7, new=5), pixels))
    assert not engine.ready
    with pytest.raises(EngineUnavailable):
        await tokens_of(engine.submit(turn("b", 7), pixels))
    await engine.close()
    await engine.start()
    assert await tokens_of(engine.submit(turn("c", 7), pixels)) == reference_answer(turn("c", 7))
    await engine.close()


async def test_a_runner_that_cannot_be_made_is_reported() -> None:
    def broken() -> FakeRunner:
        raise OSError("no such checkpoint")

    engine = LocalEngine(broken, EngineLimits())
    with pytest.raises(EngineUnavailable, match="OSError: no such checkpoint"):
        await engine.start()
    assert not engine.ready
    await engine.close()


async def test_closing_while_the_model_loads_ends_once_it_is_loaded() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> FakeRunner:
        loading.set()
        go_on.wait()
        return FakeRunner()

    engine = LocalEngine(slow, EngineLimits())
    starting = asyncio.create_task(engine.start())
    await asyncio.to_thread(loading.wait)
    starting.cancel()
    closing = asyncio.create_task(engine.close())
    await asyncio.wait({starting})
    go_on.set()
    async with asyncio.timeout(10):
        await closing
    assert not engine.ready


async def test_figures_do_not_wait_for_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_sessions.engine.streams._STATS_TIMEOUT_SECONDS", 0.01)
    gate = Gate()
    async with started(FakeRunner(before_step=gate)) as engine:
        reading = asyncio.create_task(tokens_of(engine.submit(turn("a", 7, new=2), pixels)))
        await asyncio.to_thread(gate.reached.wait)
        assert (await engine.stats()).blocks_total == 0, "nothing is known yet"
        gate.open()
        await reading
        monkeypatch.undo()
        assert (await engine.stats()).generated_tokens_total == 2


async def test_a_retained_prefix_can_be_released() -> None:
    asked = turn("a", range(32), new=0, retain=("s", 4e9))
    async with started(FakeRunner(block_size=4)) as engine:
        await tokens_of(engine.submit(asked, pixels))
        assert (await engine.stats()).blocks_retained == 8
        await engine.release("s")
        assert (await engine.stats()).blocks_retained == 0
        assert (await engine.stats()).blocks_cached == 8
