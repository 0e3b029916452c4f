"""An engine in its own process: it may die at any time, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.engine.helpers import turn
from vlm_sessions.engine.fake import fake_pixels, reference_answer
from vlm_sessions.engine.process import EngineProcess
from vlm_sessions.engine.types import (
    Event,
    Finished,
    FinishReason,
    PixelImage,
    Prefilled,
    TokenOut,
    Turn,
)
from vlm_sessions.errors import EngineLost, EngineUnavailable

CHILD = Path(__file__).with_name("fake_child.py")
FOREVER = 200
"""Tokens of an answer that is still going on when the test is over: 200 steps of 20 ms."""

Started = Callable[..., AbstractAsyncContextManager[EngineProcess]]


def command(**options: object) -> list[str]:
    return [sys.executable, str(CHILD), json.dumps(options)]


@asynccontextmanager
async def started(
    hang_timeout_seconds: float = 60.0, heartbeat_seconds: float = 5.0, **options: object
) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(
        command(**options),
        hang_timeout_seconds=hang_timeout_seconds,
        heartbeat_seconds=heartbeat_seconds,
        first_backoff_seconds=0.05,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def pixels(digest: str) -> PixelImage:
    return fake_pixels(digest)


async def answer(engine: EngineProcess, asked: Turn) -> list[int]:
    return [e.token async for e in engine.submit(asked, pixels) if isinstance(e, TokenOut)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_turn_with_an_image_is_answered_through_the_process() -> None:
    asked = turn("a", ("cat", 8), 5, 6, new=10)
    async with started() as engine:
        assert engine.ready
        events = [event async for event in engine.submit(asked, pixels)]
        assert isinstance(events[0], Prefilled)
        assert events[-1] == Finished("a", FinishReason.LENGTH)
        tokens = [event.token for event in events if isinstance(event, TokenOut)]
        assert tokens == reference_answer(asked)
        location = await engine.locate(asked.tokens, asked.images)
        assert location.kv_tokens == 10
        assert location.features == ("cat",)
        stats = await engine.stats()
        assert stats.generated_tokens_total == 10
        await engine.clear()
        assert (await engine.locate(asked.tokens, asked.images)).kv_tokens == 0


async def test_turns_are_answered_side_by_side() -> None:
    asked = [turn(f"t{n}", (f"photo-{n % 3}", 6), n, n, new=8) for n in range(12)]
    async with started(num_blocks=40) as engine:
        answers = await asyncio.gather(*(answer(engine, each) for each in asked))
    assert answers == [reference_answer(each) for each in asked]


async def test_a_killed_engine_fails_its_turns_at_once_and_the_next_one_is_answered() -> None:
    async with started(step_seconds=0.02) as engine:
        streams = [
            engine.submit(turn(name, 7, 8, new=FOREVER), pixels) for name in ("one", "other")
        ]
        for stream in streams:
            assert isinstance(await anext(stream), Prefilled)
        old = engine.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        for stream in streams:
            with pytest.raises(EngineLost):
                async with asyncio.timeout(2):
                    await drain(stream)
        assert not engine.ready
        with pytest.raises(EngineUnavailable):
            await answer(engine, turn("too early", 7, 8))
        assert (await engine.stats()).generated_tokens_total == 0
        assert (await engine.locate((7, 8), ())).kv_tokens == 0

        await engine.wait_ready(30)
        assert engine.pid != old
        asked = turn("next", 7, 8)
        assert await answer(engine, asked) == reference_answer(asked)
        assert (await engine.stats()).restarts_total == 1


async def drain(stream: AsyncIterator[Event]) -> None:
    async for _ in stream:
        pass


async def test_a_step_that_fails_ends_the_process_and_a_new_one_takes_its_place() -> None:
    async with started(fail_at_step=3) as engine:
        with pytest.raises(EngineLost):
            await answer(engine, turn("a", 7, 8, new=10))
        await engine.wait_ready(30)
        asked = turn("b", 7, 8, new=2)
        assert await answer(engine, asked) == reference_answer(asked)


async def test_an_engine_that_hangs_is_killed_and_replaced() -> None:
    async with started(hang=2, hang_timeout_seconds=0.2, heartbeat_seconds=0.05) as engine:
        old = engine.pid
        with pytest.raises(EngineLost):
            await answer(engine, turn("a", 7, 8, new=10))
        await engine.wait_ready(30)
        assert old is not None
        assert not is_alive(old)


async def test_closing_leaves_no_process_and_fails_what_is_in_flight() -> None:
    async with started(step_seconds=0.02) as engine:
        stream = engine.submit(turn("a", 7, 8, new=FOREVER), pixels)
        await anext(stream)
        pid = engine.pid
        assert pid is not None
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await drain(stream)
        assert not is_alive(pid)
        assert engine.pid is None
        assert not engine.ready


async def test_closing_while_a_lost_engine_is_being_ended_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It neither ends a step nor sees that its socket is closed, so that it has to be killed."""
    monkeypatch.setattr("vlm_sessions.engine.spawned._EXIT_SECONDS", 0.3)
    async with started(hang_timeout_seconds=0.1, heartbeat_seconds=0.05) as engine:
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineLost):
            await answer(engine, turn("a", 7, 8))
        assert is_alive(pid)
        await engine.close()
        assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a stranger's child by pidfd")
async def test_a_child_whose_parent_dies_is_gone_too() -> None:
    """The parent is a process of its own, which is killed and cannot clean up."""
    script = (
        "import asyncio, sys\n"
        "from vlm_sessions.engine.process import EngineProcess\n"
        "async def main():\n"
        "    engine = EngineProcess(sys.argv[1:])\n"
        "    await engine.start()\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *command(), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    child = os.pidfd_open(pid)
    try:
        parent.kill()
        await parent.wait()
        ended, _, _ = await asyncio.to_thread(select.select, [child], [], [], 10)
    finally:
        os.close(child)
    assert ended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail": "no such checkpoint: /nowhere"}, "RuntimeError: no such checkpoint: /nowhere"),
        ({"die": True}, "exit status 7"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_reported(
    options: dict[str, object], message: str
) -> None:
    engine = EngineProcess(command(**options))
    with pytest.raises(EngineUnavailable, match=message):
        await engine.start()
    assert not engine.ready
    assert engine.pid is None
    await engine.close()


async def test_a_command_that_is_no_engine_is_reported() -> None:
    chatter = "import os, sys; os.write(int(sys.argv[1]), b'\\5\\0\\0\\0hello')"
    engine = EngineProcess([sys.executable, "-c", chatter])
    with pytest.raises(EngineUnavailable, match="not a reply"):
        await engine.start()
    assert engine.pid is None


async def test_a_command_that_cannot_be_run_is_reported() -> None:
    engine = EngineProcess(["/nowhere/python"])
    with pytest.raises(EngineUnavailable, match="could not be started"):
        await engine.start()


async def test_an_interrupt_from_the_keyboard_is_the_parents_business() -> None:
    async with started() as engine:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGINT)
        asked = turn("a", 7, 8)
        assert await answer(engine, asked) == reference_answer(asked)
        assert (await engine.stats()).restarts_total == 0


async def test_waiting_for_an_engine_that_is_not_started_ends_with_an_error() -> None:
    engine = EngineProcess(command())
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(0.01)
