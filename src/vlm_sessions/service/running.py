"""One prompt while it runs: its task, its channel to the client, and how it is ended early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.schema import AnswerEvent, SamplingOptions
from vlm_sessions.service.admission import Admission
from vlm_sessions.service.generation import Generation
from vlm_sessions.service.quota import Quota
from vlm_sessions.service.work import Work


class Ending(Enum):
    """Why a running prompt is ended from outside."""

    CANCELLED = auto()
    """Someone asked for it; the prompting client gets what there is."""
    ABANDONED = auto()
    """The client has left; nobody is told."""
    SHUTDOWN = auto()
    """The service ends; the client is told to come back."""


class RunningPrompt:
    """One prompt's task and the channel to its client."""

    def __init__(
        self, work: Work, options: SamplingOptions, *, request_id: str, limit_seconds: float
    ) -> None:
        self.work = work
        self.options = options
        self.request_id = request_id
        self.limit_seconds = limit_seconds
        self.started = time.perf_counter()
        self.at_work = False
        """Whether it has left the line: one at a time in each session."""
        self.recording = False
        """Whether it is too late to cancel."""
        self.ending: Ending | None = None
        self.generation: Generation | None = None
        self.unsent = ""
        """The end of the generation's text, while it waits for the lifetime to be made true."""
        self.channel: asyncio.Queue[AnswerEvent | VlmError] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    @property
    def client(self) -> str:
        """Who takes turns with others in the engine: without API keys the session."""
        return self.work.client or self.work.session_id or self.request_id

    def end(self, ending: Ending) -> bool:
        """Have it end soon; ``False``: it is over or as good as over."""
        if self.task is None or self.task.done() or self.recording or self.ending is not None:
            return False
        self.ending = ending
        self.task.cancel()
        return True

    async def over(self) -> None:
        """Wait until nothing of it is left running."""
        if self.task is not None:
            await asyncio.wait([self.task])


@asynccontextmanager
async def place_in_line(
    prompt: RunningPrompt, admission: Admission, quota: Quota
) -> AsyncIterator[None]:
    """Wait in line; inside, the session is this prompt's.

    Raises:
        QueueFull: at once, if too many of the session, its client or all wait already.
    """
    with quota.place(prompt.work.client), prompt.work.in_use():
        async with admission.admit(prompt.work.session_id):
            prompt.at_work = True
            try:
                yield
            finally:
                prompt.at_work = False
