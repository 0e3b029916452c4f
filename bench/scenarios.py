"""What clients do while they are timed: sessions, and a picture with every question."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from bench.measure import TurnTimes, time_stream
from bench.workload import Lengths, Workload
from vlm_sessions.client import AsyncClient


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """One session. ``opened`` is in ms until the reply; ``turns`` has the first prompt first."""

    opened: float
    num_image_tokens: int
    turns: tuple[TurnTimes, ...]

    @property
    def follow_ups(self) -> tuple[TurnTimes, ...]:
        return self.turns[1:]

    @property
    def open_to_first(self) -> float:
        """From sending the picture to the first piece of the first answer, ms."""
        return self.opened + self.turns[0].ttft


async def hold_session(client: AsyncClient, workload: Workload, lengths: Lengths) -> SessionTimes:
    """Open with a new picture, ask, close."""
    picture = workload.picture()
    started = time.perf_counter()
    async with client.open(picture) as session:
        opened = (time.perf_counter() - started) * 1e3
        turns = [
            await time_stream(
                session.stream(
                    workload.question(lengths.num_question_words),
                    max_new_tokens=lengths.num_answer_tokens,
                    ignore_eos=True,
                )
            )
            for _ in range(lengths.num_turns)
        ]
        num_image_tokens = sum(image.tokens for image in session.images)
        return SessionTimes(opened, num_image_tokens, tuple(turns))


async def ask_with_picture(
    client: AsyncClient, workload: Workload, lengths: Lengths
) -> tuple[TurnTimes, ...]:
    """The same number of questions, without a session and with a new picture each: what a client
    must do that cannot keep one, minus the history that it would have to send as well."""
    return tuple(
        [
            await time_stream(
                client.stream(
                    workload.question(lengths.num_question_words),
                    workload.picture(),
                    max_new_tokens=lengths.num_answer_tokens,
                    ignore_eos=True,
                )
            )
            for _ in range(lengths.num_turns)
        ]
    )


async def session_rate(
    client: AsyncClient, workload: Workload, lengths: Lengths, num_sessions: int
) -> float:
    """Tokens a second over the follow-ups of so many sessions at once; opening is not counted."""
    workloads = [Workload(workload.fork()) for _ in range(num_sessions)]
    sessions = [await client.open(each.picture()) for each in workloads]

    async def ask(number: int, num_turns: int) -> int:
        num_tokens = 0
        for _ in range(num_turns):
            stream = sessions[number].stream(
                workloads[number].question(lengths.num_question_words),
                max_new_tokens=lengths.num_answer_tokens,
                ignore_eos=True,
            )
            num_tokens += (await time_stream(stream)).num_tokens
        return num_tokens

    await asyncio.gather(*(ask(number, 1) for number in range(num_sessions)))
    started = time.perf_counter()
    counts = await asyncio.gather(
        *(ask(number, lengths.num_turns - 1) for number in range(num_sessions))
    )
    seconds = time.perf_counter() - started
    await asyncio.gather(*(session.close() for session in sessions))
    return sum(counts) / seconds


async def picture_rate(
    client: AsyncClient, workload: Workload, lengths: Lengths, num_clients: int
) -> float:
    """Tokens a second of so many clients at once that send a picture with every question: as many
    questions as ``session_rate`` counts."""
    lengths = replace(lengths, num_turns=lengths.num_turns - 1)
    workloads = [Workload(workload.fork()) for _ in range(num_clients)]
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask_with_picture(client, each, lengths) for each in workloads))
    seconds = time.perf_counter() - started
    return sum(turn.num_tokens for turns in answers for turn in turns) / seconds
