"""The wall clock of a simulated machine: it goes with the loop's time, and can be set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

EPOCH = 1_000_000.0
NUM_SETTINGS = 64


class WallClock:
    """Seconds since the epoch; ``monotonic`` is the time that nobody can set."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._offset = EPOCH
        self._offsets: deque[tuple[float, float]] = deque([(0.0, EPOCH)], maxlen=NUM_SETTINGS)
        """When the clock was set, and by how much it is ahead since then."""

    def __call__(self) -> float:
        return self._monotonic() + self._offset

    def jump(self, seconds: float) -> None:
        self._offset += seconds
        self._offsets.append((self._monotonic(), self._offset))

    def latest_within(self, seconds: float) -> float:
        """The latest time that the clock has shown in the last so many seconds."""
        now = self._monotonic()
        shown = [now + self._offset]
        until = now
        for since, offset in reversed(self._offsets):
            shown.append(until + offset)
            if since < now - seconds:
                break
            until = since
        return max(shown)
