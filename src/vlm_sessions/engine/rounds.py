"""Whose turn is next: clients take turns, so that nobody stands behind another's long line.

A turn is given its place when it comes. Each client has one turn in a round; the turns of a round
go in order of submission, but those first whose clients have nothing else in the engine.

    client a    1 begun    2    3    4    5 …
    client b               2 comes now: before a's second

So a client with a hundred turns makes another wait for the one that has begun, not for a hundred;
among clients of one turn each it is the order of submission. No turn waits for ever: who comes gets
a place in the round after the one that has begun, and rounds do not go back. It is start-time fair
queueing (Goyal, Vin, Cheng, 1996) with a turn as the unit, however long it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a turn stands among all that are not over; the lowest is the first."""

    round: int
    is_behind: bool
    """Whether its client had another turn in the engine when it came."""
    number: int
    """Of submission."""


@dataclass(slots=True)
class _Line:
    num_turns: int
    last_round: int


class Rounds:
    """Places by client, an opaque name. Not thread-safe."""

    def __init__(self) -> None:
        self._begun = 0
        """The last round of which a turn has begun."""
        self._num_entered = 0
        self._lines: dict[str, _Line] = {}
        """client -> its turns that are not over"""

    def enter(self, client: str) -> Place:
        """A turn comes; each call wants its ``leave``."""
        self._num_entered += 1
        line = self._lines.get(client)
        if line is None:
            self._lines[client] = _Line(1, self._begun + 1)
            return Place(self._begun + 1, is_behind=False, number=self._num_entered)
        line.num_turns += 1
        line.last_round = max(self._begun, line.last_round) + 1
        return Place(line.last_round, is_behind=True, number=self._num_entered)

    def begin(self, place: Place) -> None:
        """Something is computed for the turn at this place."""
        self._begun = max(self._begun, place.round)

    def leave(self, client: str) -> None:
        """A turn is over."""
        line = self._lines[client]
        line.num_turns -= 1
        if not line.num_turns:
            del self._lines[client]

    def check_integrity(self, clients: Counter[str]) -> None:
        """Assert that these are the clients, each with so many turns."""
        assert {client: line.num_turns for client, line in self._lines.items()} == clients
