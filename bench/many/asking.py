"""Sessions of a running service: opened by the thousand, timed, and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from bench.load.client import LoadClient, Reply
from bench.measure import Quantiles
from bench.metrics import read_metrics
from bench.pictures import Pictures

NUM_SCENES = 200
NUM_CLIENTS = 4
NUM_ANSWER_TOKENS = 24
MAX_RETRY_SECONDS = 5.0
SETTLE_SECONDS = 0.2
NUM_WARM_REQUESTS = 300
QUESTIONS = (
    "What is in the top left?",
    "What is in the middle?",
    "What is in the bottom right?",
    "How many shapes are there?",
    "Describe the picture.",
)

T = TypeVar("T")


class AskingFailed(Exception):
    """The service answered otherwise than it must. The message says what."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Sessions that were asked, and how many did not answer as a fresh one does."""

    num_asked: int
    num_wrong: int
    answer: Quantiles
    """Milliseconds, with ``NUM_CLIENTS`` asking."""


class Crowd:
    """Open sessions of one service, the n-th with a picture of scene n modulo ``NUM_SCENES``."""

    def __init__(self, url: str, client: LoadClient, pictures: Pictures, random: Random) -> None:
        self.url = url
        self._client = client
        self._random = random
        self._pictures = pictures
        self._open: list[str] = []

    def __len__(self) -> int:
        return len(self._open)

    async def grow(self, size: int, opened: Callable[[int], None]) -> None:
        """Open more until there are so many. ``opened`` is called with each count."""

        async def open_one(number: int) -> None:
            self._open[number] = await self._session(number)
            opened(1)

        numbers = range(len(self._open), size)
        self._open += [""] * len(numbers)
        await _by_clients(open_one, numbers)

    async def times(self, count: int) -> dict[str, list[float]]:
        """Requests one after another, by what they do, in milliseconds. The sessions that are
        opened for it are closed again."""
        await self.settle()
        opened = [await self._client.open(self._pictures.any()) for _ in range(count)]
        await self.settle()
        asked = self._random.choices(self._open, k=count)
        described = [await self._client.describe(session) for session in asked]
        closed = [await self._client.close(each.session_id) for each in opened]
        return {
            "opening over HTTP": _times(opened),
            "describing over HTTP": _times(described),
            "closing over HTTP": _times(closed),
        }

    async def check(self, numbers: Iterable[int], asked: Callable[[int], None]) -> Checked:
        """Ask these sessions, and compare with what a fresh session on such a picture answers."""
        numbers = list(numbers)
        scenes = sorted({number % NUM_SCENES for number in numbers})
        expected: dict[int, str] = {}
        replies: dict[int, Reply] = {}

        async def expect(scene: int) -> None:
            session = await self._session(scene)
            expected[scene] = (await self._answer(session, scene)).text
            await self._client.close(session)

        async def ask(number: int) -> None:
            scene = number % NUM_SCENES
            replies[number] = await self._answer(self._open[number], scene)
            asked(1)

        await _by_clients(expect, scenes)
        await _by_clients(ask, numbers)
        num_wrong = sum(
            reply.text != expected[number % NUM_SCENES] for number, reply in replies.items()
        )
        if len(set(expected.values())) < min(2, len(scenes)):
            raise AskingFailed("all pictures are answered alike: equal answers would mean nothing")
        times = Quantiles.of(_times(replies.values()))
        return Checked(len(replies), num_wrong, times)

    async def settle(self) -> None:
        """Wait until the engine has computed ahead whatever was opened."""
        while True:
            found = await self.figures()
            if not found["vlm_engine_running_turns"] + found["vlm_engine_waiting_turns"]:
                return
            await asyncio.sleep(SETTLE_SECONDS)

    async def figures(self) -> dict[str, float]:
        """The service's metrics; of those with labels ``name{value}``."""
        return await read_metrics(self.url)

    async def warm_up(self) -> None:
        """Java compiles what it has done a few hundred times; that is not timed."""
        session = await self._session(0)
        for _ in range(NUM_WARM_REQUESTS):
            await self._client.describe(session)
        await self._client.close(session)

    async def _session(self, scene: int) -> str:
        picture = self._pictures.of(scene % NUM_SCENES)
        reply = await _persist(lambda: self._client.open(picture))
        return reply.session_id

    async def _answer(self, session: str, scene: int) -> Reply:
        question = QUESTIONS[scene % len(QUESTIONS)]
        return await _persist(
            lambda: self._client.answer(session, question, num_tokens=NUM_ANSWER_TOKENS)
        )


async def _persist(send: Callable[[], Awaitable[Reply]]) -> Reply:
    """Send until it is taken: who is told to come back later does.

    Raises:
        AskingFailed: it was answered in another way.
    """
    while True:
        reply = await send()
        if reply.is_refused and reply.retry_after is not None:
            await asyncio.sleep(min(float(reply.retry_after), MAX_RETRY_SECONDS))
        elif reply.status == 200:
            return reply
        else:
            raise AskingFailed(f"status {reply.status}, {reply.code}")


async def _by_clients(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Have ``NUM_CLIENTS`` do it, each one item after another."""
    rest = iter(items)

    async def client() -> None:
        for item in rest:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CLIENTS):
            group.create_task(client())


def _times(replies: Iterable[Reply]) -> list[float]:
    """Milliseconds of each.

    Raises:
        AskingFailed: one was not answered.
    """
    replies = list(replies)
    wrong = [reply for reply in replies if reply.status != 200]
    if wrong:
        raise AskingFailed(f"status {wrong[0].status}, {wrong[0].code}")
    return [1e3 * reply.seconds for reply in replies]
