"""Who comes when: visits that arrive by chance and wait for nobody, all from a seed.

A visit opens a session with a picture and asks a few questions, with a pause to think before each.
The pauses are drawn beforehand and counted from one question to the next, not from an answer: a
service that is slow is asked no less. (An open loop: in a closed one whoever waits does not ask,
and what would have been slow is never measured.)
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Habits:
    """What visitors do. Pauses are exponential."""

    num_turns: int = 4
    think_seconds: float = 1.5
    """Before each question, on average."""
    num_question_words: int = 12
    num_answer_tokens: int = 16
    share_left_open: float = 0.0
    """Of the visitors, who never close their session."""

    @property
    def mean_seconds(self) -> float:
        """From opening to the last question."""
        return self.num_turns * self.think_seconds


@dataclass(frozen=True, slots=True)
class Visit:
    """Times are in seconds after the start; none is outside the schedule's bounds."""

    opens_at: float
    asks_at: tuple[float, ...]
    closes: bool = True
    """After the last answer."""


def schedule(
    rate: float, habits: Habits, random: Random, *, begins: float, ends: float
) -> list[Visit]:
    """Visits whose questions come at ``rate`` a second on average, once as many visits have begun
    as end: some ``mean_seconds`` after ``begins``. What would come after ``ends`` does not."""
    visits: list[Visit] = []
    now = begins
    while True:
        now += random.expovariate(rate / habits.num_turns)
        if now >= ends:
            return visits
        asks: list[float] = []
        at = now
        for _ in range(habits.num_turns):
            at += random.expovariate(1 / habits.think_seconds)
            if at < ends:
                asks.append(at)
        closes = random.random() >= habits.share_left_open
        visits.append(Visit(now, tuple(asks), closes))


def returning(count: int, *, opens_at: float, asks_from: float, apart: float) -> list[Visit]:
    """Visits that open, one after another, and ask one question much later."""
    return [
        Visit(opens_at + number * apart, (asks_from + number * apart,)) for number in range(count)
    ]
