"""Sends what is due when it is due, whatever became of what was sent before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from random import Random

from bench.load.arrivals import Habits, Visit
from bench.load.client import LoadClient, Reply
from bench.load.outcomes import Asked, Run
from bench.pictures import Pictures
from bench.workload import Workload

LEAD_SECONDS = 0.5
"""Between making the tasks and the first of them."""


class Generator:
    """Carries out schedules against one service."""

    def __init__(self, client: LoadClient, habits: Habits, random: Random) -> None:
        self._client = client
        self._habits = habits
        self._pictures = Pictures(random)
        self._words = Workload(random.getrandbits(32))

    async def run(self, visits: Iterable[Visit]) -> Run:
        """Carry out all visits, to the last answer. Most sessions are closed
        after their last one."""
        visits = sorted(visits, key=lambda visit: visit.opens_at)
        first = visits[0].opens_at if visits else 0.0
        run = _Running(self, time.perf_counter() + LEAD_SECONDS - first)
        # One task for each visit, made as it comes: thousands of sleeping ones would cost.
        async with asyncio.TaskGroup() as group:
            for visit in visits:
                await run.wait_until(visit.opens_at)
                group.create_task(run.visit(visit))
        return run.result()

    async def open(self) -> Reply:
        return await self._client.open(self._pictures.any())

    async def ask(self, session_id: str) -> Reply:
        question = self._words.question(self._habits.num_question_words)
        return await self._client.ask(
            session_id, question, num_tokens=self._habits.num_answer_tokens
        )

    async def close(self, session_id: str) -> None:
        await self._client.close(session_id)


class _Running:
    """One schedule while it is carried out. ``start``: the clock's time of its zero."""

    def __init__(self, generator: Generator, start: float) -> None:
        self._generator = generator
        self._start = start
        self._asked: list[Asked] = []
        self._opened: list[tuple[float, Reply]] = []
        self._lateness: list[tuple[float, float]] = []

    def result(self) -> Run:
        return Run(tuple(self._asked), tuple(self._opened), tuple(self._lateness))

    async def wait_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._start + at - time.perf_counter()))

    async def visit(self, visit: Visit) -> None:
        self._note_lateness(visit.opens_at)
        opening = asyncio.create_task(self._generator.open())
        async with asyncio.TaskGroup() as group:
            for at in visit.asks_at:
                group.create_task(self._ask(at, opening))
        opened = await opening
        self._opened.append((visit.opens_at, opened))
        if opened.session_id and visit.closes:
            await self._generator.close(opened.session_id)

    async def _ask(self, at: float, opening: asyncio.Task[Reply]) -> None:
        await self.wait_until(at)
        self._note_lateness(at)
        opened = await opening
        reply = await self._generator.ask(opened.session_id) if opened.session_id else None
        self._asked.append(Asked(at, self._start + at, reply, is_turned_away=opened.is_refused))

    def _note_lateness(self, at: float) -> None:
        self._lateness.append((at, time.perf_counter() - self._start - at))
