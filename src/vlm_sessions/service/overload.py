"""Who is refused because they would wait too long: better told at once than answered too late.

A turn waits from when it is given to the engine until its prompt is computed; its first token is
there then. While any turn waits, the engine works as fast as it can; so the wait of one more is the
number of turns before it and itself, times the time that each took of late. Turns before it are
those that the engine computes first: clients take turns (``engine/rounds.py``), so a client with a
hundred waiting makes itself wait, not others.

That is a forecast, not a reaction: the last of a sudden hundred is refused as surely as one that
comes when all have been slow for long. What is not in the engine makes nobody else wait, and does
not count: a prompt in its session's line, a picture on its way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlm_sessions.engine.types import Event, Prefilled
from vlm_sessions.errors import Overloaded

MIN_WAITING = 4
"""So few may wait however slow the engine is: what one large picture took says little of a small
question, and somebody has to be computed for the rate to be known."""
OPENING_SHARE = 0.5
"""Of the longest wait, for openings: who has a conversation comes before who wants to begin one."""
MEMORY = 0.97
"""What is left of an observation's weight after the next one: some thirty count."""
FEWEST_COMPUTED = 8
"""Rates of fewer are not believed: the first of a batch is not computed sooner than the last, and
an engine's first step is its slowest."""
LONGEST_RETRY_SECONDS = 30.0


class Wait:
    """One turn that waits for its prompt to be computed."""

    def __init__(self, end: Callable[[bool], None]) -> None:
        self._end = end
        self._is_over = False

    def hear(self, event: Event) -> None:
        """An event of the turn has come."""
        if isinstance(event, Prefilled):
            self.end(computed=True)

    def end(self, *, computed: bool) -> None:
        """Wait no longer. Only the first call counts."""
        if not self._is_over:
            self._is_over = True
            self._end(computed)


class Backlog:
    """Turns that wait for the engine, by client. Belongs to one event loop.

    Args:
        max_wait_seconds: for a first token; 0: nobody is refused.
        clock: monotonic seconds.
    """

    def __init__(
        self, max_wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_wait = max_wait_seconds
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._since = 0.0
        """When the last wait ended, or the first began after nobody had waited."""
        self._busy_seconds = 0.0
        self._num_computed = 0.0
        """Observed of late, while somebody waited: both fade as turns are computed."""

    @contextmanager
    def waiting(self, client: str) -> Iterator[Wait]:
        """A turn of this client waits, until its prompt is computed or the block is left."""
        if not self._waiting:
            self._since = self._clock()
        self._waiting[client] += 1
        wait = Wait(lambda computed: self._end(client, computed))
        try:
            yield wait
        finally:
            wait.end(computed=False)

    def check_prompt(self, client: str, *, num_in_line: int = 0) -> None:
        """Refuse a prompt before which so many stand in its session's line.

        Each of them waits as long as it would itself: they run one after another.

        Raises:
            Overloaded: it would wait too long.
        """
        self._check(self.seconds_for(client) * (num_in_line + 1), self._max_wait)

    def check_opening(self, client: str) -> None:
        """Raises:
        Overloaded: it would take too long before a prompt of a new session is answered.
        """
        self._check(self.seconds_for(client), self._max_wait * OPENING_SHARE)

    def seconds_for(self, client: str) -> float:
        """When one more turn of this client would have its first token, as things stand; 0 where
        next to nobody waits."""
        own = self._waiting[client]
        others = (number for other, number in self._waiting.items() if other != client)
        num_before = own + sum(min(number, own + 1) for number in others)
        if num_before < MIN_WAITING:
            return 0.0
        # An engine that has done nothing since the last one counts as slow, not as the last one.
        busy = self._busy_seconds + self._clock() - self._since
        return (num_before + 1) * busy / max(self._num_computed, FEWEST_COMPUTED)

    def _check(self, seconds: float, most: float) -> None:
        if self._max_wait and seconds > most:
            raise Overloaded(
                f"It would take some {seconds:.1f} s until the first token, with "
                f"{self._waiting.total()} prompts waiting. Retry later; VLM_MAX_WAIT_SECONDS says "
                "how long is too long.",
                retry_after=min(seconds - most, LONGEST_RETRY_SECONDS),
            )

    def _end(self, client: str, computed: bool) -> None:
        now = self._clock()
        self._busy_seconds += now - self._since
        self._since = now
        if computed:
            self._busy_seconds *= MEMORY
            self._num_computed = (self._num_computed + 1) * MEMORY
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]
