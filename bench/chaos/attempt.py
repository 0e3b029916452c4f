"""One request of a client, judged by how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Generic, TypeVar

from bench.chaos.talk import Broke, Garbled, Hung, Refused
from bench.chaos.tally import OK, Tally
from bench.chaos.weather import BROKEN, Weather

T = TypeVar("T")

REFUSED_SECONDS = 0.25
"""A client that was refused waits for so long, as people and programs do."""


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a request ended. ``decided``: whether the service has said what became of it."""

    value: T | None
    decided: bool


class Attempt:
    """Makes requests, and notes how each ended."""

    def __init__(self, weather: Weather, tally: Tally) -> None:
        self._weather = weather
        self._tally = tally

    async def __call__(
        self, operation: str, request: Awaitable[T], *, right: frozenset[str] = frozenset()
    ) -> Ended[T]:
        """Wait for its end; one that nothing excuses is a violation.

        Args:
            right: codes of errors that are as they should be.
        """
        began = self._weather.now()
        decided = excused = False
        try:
            value = await request
        except Refused as refused:
            end, problem, decided = refused.code, str(refused), refused.decided
            excused = end in right or self._weather.excuses(end, began)
        except Broke as broke:
            end, problem = BROKEN, str(broke)
            excused = self._weather.excuses(end, began)
        except Hung as hung:
            end, problem = "hung", str(hung)
        except Garbled as garbled:
            end, problem = "garbled", str(garbled)
        else:
            self._tally.note(operation, OK, self._weather.now() - began)
            return Ended(value, decided=True)
        seconds = self._weather.now() - began
        self._tally.note(operation, end, seconds)
        if not excused:
            self._tally.blame(f"{operation} ended after {seconds:.1f} s: {problem}")
        if end not in right:
            await asyncio.sleep(REFUSED_SECONDS)
        return Ended(None, decided=decided)
