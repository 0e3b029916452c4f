"""What a simulated client has asked for, and what it has been told so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.pictures import Picture


@dataclass
class Request:
    """Anything that is asked. It is open until the client has its reply, or has left for good."""

    number: int
    session_id: str | None
    is_open: bool = True
    error: str | None = None
    """The code of the error that was its reply."""

    @property
    def name(self) -> str:
        return f"{type(self).__name__.lower()}-{self.number}"


@dataclass
class Opening(Request):
    system: str | None = None
    pictures: tuple[Picture, ...] = ()


@dataclass
class Forking(Request):
    """``session_id`` is the parent's."""


@dataclass
class Rewinding(Request):
    num_turns: int = 1


@dataclass
class Closing(Request):
    pass


@dataclass
class Asking(Request):
    """A prompt in a session, or without one."""

    text: str = ""
    system: str | None = None
    pictures: tuple[Picture, ...] = ()
    max_new_tokens: int = 6
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    seconds_away: float = 0.0
    """That the client has spent on other things than waiting for the next event."""
    deltas: list[str] = field(default_factory=list)
    """What the client has taken of the answer."""
    is_recorded: bool = False
    is_taken_back: bool = False
    """A rewind has removed it from the record again, or its session has ended."""
    was_denied: bool = False
    """The client was told that it left no trace, or has left it before it was recorded."""
