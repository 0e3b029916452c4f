"""What the signals to the supervisor ask for, and the time that an orderly end may take.

    0 s             drain_seconds                    + 3 s               + 4 s           + 5 s
    ├─ replies end ─┼─ the worker ends the rest and ─┼─ last bytes pass ─┼─ all is killed, ─┤
    SIGTERM         │  closes the journal            │  the edge         │  the edge last

These are limits; a service with nothing to do ends within a second.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

WORKER_MARGIN_SECONDS = 3.0
"""For the worker to end and to close, after its time to drain is over."""
EDGE_MARGIN_SECONDS = 4.0
EDGE_SECONDS = 2.0
"""For a client that reads slowly; what the worker wrote is in the front end's hands."""
LAST_WORDS_SECONDS = 0.5
"""For the edge to tell those whose request came too late for the worker."""
HURRIED_WORKER_SECONDS = 3.0
HURRIED_EDGE_SECONDS = 0.5


class Stopping:
    """Set by SIGTERM or SIGINT. Belongs to one event loop.

    Args:
        drain_seconds: how long running replies may go on.
    """

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._asked_at = 0.0
        self.asked = asyncio.Event()
        """By the first signal: finish what runs."""
        self.hurried = asyncio.Event()
        """By the second: end what runs."""

    @contextmanager
    def signals_heard(self) -> Iterator[None]:
        """Listen during the block; to be entered in the main thread."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def ask(self) -> None:
        """What a signal does."""
        if self.asked.is_set():
            self.hurried.set()
        else:
            self._asked_at = asyncio.get_running_loop().time()
            self.asked.set()

    def seconds_for_worker(self) -> float:
        """How much longer the worker may live."""
        if self.hurried.is_set():
            return HURRIED_WORKER_SECONDS
        return self._left(WORKER_MARGIN_SECONDS)

    def seconds_for_edge(self) -> float:
        """How much longer the edge may live, once the worker is gone."""
        if self.hurried.is_set():
            return HURRIED_EDGE_SECONDS
        if not self.asked.is_set():
            return EDGE_SECONDS
        return min(EDGE_SECONDS, self._left(EDGE_MARGIN_SECONDS))

    def _left(self, margin: float) -> float:
        elapsed = asyncio.get_running_loop().time() - self._asked_at
        return max(0.0, self._drain_seconds + margin - elapsed)
