"""Drives an engine: takes commands between steps, steps while there is work, sends what it gave."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import assert_never

from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import Event
from vlm_sessions.engine.wire import (
    Cancel,
    Clear,
    Command,
    Events,
    Locate,
    Located,
    Ping,
    Pixels,
    Pong,
    Release,
    Reply,
    Stats,
    StatsReply,
    Submit,
)


class EngineLoop:
    """The step loop, to be run by one thread; ``put`` and ``stop`` may be called from any.

    It is there before its engine, which takes minutes to load: what comes in meanwhile waits.

    Args:
        send: takes a reply to the client. Must not block.
    """

    def __init__(self, send: Callable[[Reply], None]) -> None:
        self._send = send
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()

    def put(self, command: Command) -> None:
        self._inbox.put(command)

    def stop(self) -> None:
        """End ``run`` before its next step, or before its first."""
        self._inbox.put(None)

    def run(self, engine: Engine) -> None:
        """Work until stopped.

        Raises:
            Exception: the runner failed; the engine is lost.
        """
        while engine.has_work or self._carry_out(self._inbox.get(), engine):
            if not self.advance(engine):
                return

    def advance(self, engine: Engine) -> bool:
        """Carry out what has come in by now, then step if there is work; ``False``: it is stopped.
        Does not wait.

        Raises:
            Exception: the runner failed; the engine is lost.
        """
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                break
            if not self._carry_out(command, engine):
                return False
        if engine.has_work:
            self._send_events(engine.step())
        return True

    def _carry_out(self, command: Command | None, engine: Engine) -> bool:
        match command:
            case None:
                return False
            case Submit():
                self._send_events(engine.add(command.turn))
            case Cancel():
                self._send_events(engine.cancel(command.turn_id))
            case Pixels():
                engine.put_pixels(command.image)
            case Release():
                engine.release(command.key)
            case Clear():
                engine.clear()
            case Locate():
                location = engine.locate(command.tokens, command.images, command.salt)
                self._send(Located(command.ask_id, location))
            case Stats():
                self._send(StatsReply(command.ask_id, engine.stats()))
            case Ping():
                self._send(Pong(command.ask_id))
            case _:
                assert_never(command)
        return True

    def _send_events(self, events: list[Event]) -> None:
        if events:
            self._send(Events(tuple(events)))
