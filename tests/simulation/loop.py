"""An event loop whose time is simulated: what takes minutes is over at once, and in one order only.

One callback runs at a time. When none is ready, time jumps to the next timer. There are no threads
and no sockets: work for an executor is done in the loop, some simulated moments later. The order in
which callbacks run is the loop's usual one; with ``shuffle`` some are overtaken by others, as if
what they wait for had come a moment later.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any


class Stuck(AssertionError):
    """Everybody waits, and nothing that they wait for will ever come."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what asyncio runs, in simulated seconds.

    Args:
        start: the time at first.
        shuffle: how likely it is that a ready callback is overtaken by another one.
        thread_seconds: what work for an executor takes, at most.
        after_step: called after each callback. What it raises ends ``run_until_complete``.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(
        self,
        random: Random,
        *,
        start: float = 0.0,
        shuffle: float = 0.0,
        thread_seconds: float = 0.02,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.num_steps = 0
        self._random = random
        self._now = start
        self._shuffle = shuffle
        self._thread_seconds = thread_seconds
        self._after_step = after_step
        self._clock_resolution = 1e-9
        self.set_exception_handler(_raise_later)
        self.failures: list[BaseException] = []

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        """Run one callback. Overrides what asyncio calls for each round."""
        self._wake_due()
        if not self._ready:
            self._sleep()
        ready = self._ready
        if len(ready) > 1 and self._random.random() < self._shuffle:
            index = self._random.randrange(len(ready))
            handle = ready[index]
            del ready[index]
        else:
            handle = ready.popleft()
        if not handle.cancelled():
            handle._run()
            self.num_steps += 1
            self._after_step()
        if self.failures:
            raise self.failures[0]

    def _sleep(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if not self._scheduled:
            raise Stuck("nothing is ready, and nothing will be")
        self._now = max(self._now, self._scheduled[0].when())
        self._wake_due()

    def _wake_due(self) -> None:
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call ``func`` in the loop, after as long as a thread might have taken."""
        future = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 - the waiter raises it
                future.set_exception(exc)
            else:
                future.set_result(result)

        self.call_later(self._random.uniform(0, self._thread_seconds), work)
        return future

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call who would have to be woken."""


def _raise_later(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimulatedLoop)
    exception = context.get("exception") or AssertionError(context["message"])
    loop.failures.append(exception)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in simulated time, until something is so."""
    while not condition():  # noqa: ASYNC110 - nobody tells, and looking costs nothing
        await asyncio.sleep(0.1)
