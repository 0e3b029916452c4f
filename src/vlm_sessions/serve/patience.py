"""How long the supervisor waits before it acts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds. The defaults are what the product promises; tests use shorter ones."""

    ping_interval: float = 5.0
    """Between two questions whether the service still answers."""
    ping_timeout: float = 5.0
    """For an answer, whatever it says; a busy machine may take its time."""
    max_misses: int = 3
    """Questions in a row without an answer: then something hangs, and TorchServe is replaced."""
    max_unready: float = 900.0
    """For an engine that is being replaced inside the worker; then TorchServe is replaced."""
    backoff: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
    """Before the n-th restart in a row; a start that becomes ready begins the row anew."""
    short_life: float = 10.0
    """An HAProxy or a replica that ends sooner has failed to start, whatever it did meanwhile."""
    max_failed_starts: int = 5
    """In a row, after a first one that worked: then the supervisor gives up."""

    def before_start(self, num_failures: int) -> float:
        """How long to wait before a start that follows so many failed ones."""
        return self.backoff[min(num_failures, len(self.backoff) - 1)]

    def failures_after(self, num_failures: int, lived: float) -> int:
        """How many starts in a row have failed, once the last of them has lived so long."""
        return num_failures + 1 if lived < self.short_life else 0
