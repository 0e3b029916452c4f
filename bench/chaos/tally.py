"""What the clients have seen: requests by how they ended, and every violation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

OK = "ok"


@dataclass
class Tally:
    """Shared by all clients of a run."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operation, how it ended) -> requests"""
    violations: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds that a request took, at most, however it ended."""
    num_answers_checked: int = 0
    num_cancelled: int = 0
    """Of those: cancelled in time."""
    num_records_checked: int = 0
    num_unknown_opens: int = 0
    """Sessions that may exist although nobody was told their ids."""
    num_settled_in: int = 0
    """Prompts and rewinds whose end nobody was told, and that turned out to have happened …"""
    num_settled_out: int = 0
    """… and those that had not."""

    @property
    def num_requests(self) -> int:
        return sum(self.ends.values())

    @property
    def num_ok(self) -> int:
        """That ended as if nothing were wrong."""
        return sum(count for (_, end), count in self.ends.items() if end == OK)

    def note(self, operation: str, end: str, seconds: float) -> None:
        self.ends[operation, end] += 1
        self.slowest = max(self.slowest, seconds)

    def by_operation(self) -> dict[str, dict[str, int]]:
        """operation -> how it ended -> requests."""
        table: dict[str, dict[str, int]] = {}
        for (operation, end), count in sorted(self.ends.items()):
            table.setdefault(operation, {})[end] = count
        return table

    def blame(self, *problems: str) -> None:
        self.violations.extend(problems)
