"""What became of each question, and whether that was good enough."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from bench.load.client import Reply


@dataclass(frozen=True, slots=True)
class Limits:
    """What a turn must meet to count."""

    ttft_seconds: float
    """From when the question was due to the first piece of its answer."""
    gap_seconds: float
    """Between one piece and the next, mean over the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was due ``at`` seconds after the start."""

    at: float
    due_at: float
    """By the clock of the replies."""
    reply: Reply | None
    """``None``: it could not be sent, since its session had not been opened."""
    is_turned_away: bool = False
    """Whether that was because the opening was refused."""

    @property
    def ttft(self) -> float | None:
        """Seconds; the wait for a session that was still being opened counts."""
        if self.reply is None or not self.reply.pieces:
            return None
        return self.reply.pieces[0] - self.due_at

    @property
    def gap(self) -> float:
        """Mean seconds between pieces."""
        pieces = self.reply.pieces if self.reply is not None else ()
        gaps = [later - earlier for earlier, later in pairwise(pieces)]
        return sum(gaps) / len(gaps) if gaps else 0.0

    @property
    def is_refused(self) -> bool:
        """With 429, it or the opening of its session."""
        return self.is_turned_away or (self.reply is not None and self.reply.is_refused)

    @property
    def is_answered(self) -> bool:
        return self.reply is not None and self.reply.is_answered

    def meets(self, limits: Limits) -> bool:
        ttft = self.ttft
        return (
            self.is_answered
            and ttft is not None
            and ttft <= limits.ttft_seconds
            and self.gap <= limits.gap_seconds
        )


@dataclass(frozen=True, slots=True)
class Run:
    """All that a generator did. Openings, like questions, with the time at which they were due."""

    asked: tuple[Asked, ...]
    opened: tuple[tuple[float, Reply], ...]
    lateness: tuple[tuple[float, float], ...]
    """When each request was due, and by how many seconds the generator itself was late with it."""
