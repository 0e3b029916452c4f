"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    GOOD = "good"
    WEAK = "weak"
    """It serves, but not as it could."""
    MISSING = "missing"
    """It cannot serve."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked for, what was found, and, unless that is good, what to do about it."""

    subject: str
    state: State
    found: str
    remedy: str = ""

    @property
    def prevents_serving(self) -> bool:
        return self.state is State.MISSING
