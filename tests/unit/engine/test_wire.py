"""Messages survive the trip between processes."""

from __future__ import annotations

import socket

import msgspec
import pytest

from tests.unit.engine.helpers import turn
from vlm_sessions.engine import wire
from vlm_sessions.engine.fake import fake_pixels
from vlm_sessions.engine.types import (
    EngineStats,
    Failed,
    Finished,
    FinishReason,
    PixelsNeeded,
    Prefilled,
    TokenOut,
)

COMMANDS = [
    wire.Submit(turn("a", 1, ("cat", 3), 2, retain=("s", 2000.5))),
    wire.Cancel("a"),
    wire.Pixels(fake_pixels("cat")),
    wire.Release("s"),
    wire.Clear(),
    wire.Locate(1, (1, 2, 3), turn("a", ("cat", 3)).images),
    wire.Stats(2),
    wire.Ping(3),
]
REPLIES = [
    wire.LoadFailed("no such checkpoint"),
    wire.Events(
        (
            PixelsNeeded("a", "cat"),
            Prefilled("a", 5, 4, 1, 0.5),
            TokenOut("a", 7),
            Finished("a", FinishReason.STOP),
            Failed("b", "context_overflow", "too long"),
        )
    ),
    wire.StatsReply(2, EngineStats(running=3)),
    wire.Pong(3),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: type(c).__name__)
def test_a_command_arrives_as_it_was_sent(command: wire.Command) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.encode(command))
        body = wire.receive_body(theirs)
    assert body is not None
    assert wire.decode_command(body) == command


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: type(r).__name__)
def test_a_reply_arrives_as_it_was_sent(reply: wire.Reply) -> None:
    assert wire.decode_reply(wire.encode(reply)[wire.LENGTH.size :]) == reply


def test_the_end_of_the_other_side_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(wire.encode(wire.Ping(1))[:-1])
        ours.close()
        assert wire.receive_body(theirs) is None


def test_what_is_no_command_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_command(b"nonsense")
