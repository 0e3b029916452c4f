"""The thread that drives an engine: every command is carried out, whenever it comes."""

from __future__ import annotations

from tests.unit.engine.helpers import turn
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.loop import EngineLoop
from vlm_sessions.engine.types import Event, Finished, TokenOut
from vlm_sessions.engine.wire import Events, Ping, Pong, Reply, Submit


def test_what_comes_in_while_the_model_loads_is_carried_out_once_it_is_there() -> None:
    asked = turn("a", 7, 8, new=3)
    replies: list[Reply] = []
    events: list[Event] = []

    def send(reply: Reply) -> None:
        replies.append(reply)
        events.extend(reply.events if isinstance(reply, Events) else ())
        if any(isinstance(event, Finished) for event in events):
            loop.stop()

    loop = EngineLoop(send)
    loop.put(Submit(asked))
    loop.put(Ping(1))
    loop.run(Engine(FakeRunner(), EngineLimits()))
    assert replies[0] == Pong(1)
    assert [e.token for e in events if isinstance(e, TokenOut)] == reference_answer(asked)


def test_a_loop_stopped_before_its_engine_is_there_ends_at_once() -> None:
    runner = FakeRunner()
    loop = EngineLoop(lambda _: None)
    loop.stop()
    loop.put(Submit(turn("a", 7)))
    loop.run(Engine(runner, EngineLimits()))
    assert runner.plans == []
