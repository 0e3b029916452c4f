"""Where requests are begun and seen to: each has a reply in time, and one that may be given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.simulation.requests import Asking, Closing, Request
from tests.simulation.scene import Connection, Scene
from tests.simulation.witness import MOMENT_SECONDS, Witness
from vlm_sessions.errors import VlmError

SLACK_SECONDS = 20.0
"""Beyond a prompt's own limit: for what is undone, on a slow disk."""
OTHER_SECONDS = 180.0
"""For a request that waits for no answer of the model; the engine may hang a minute meanwhile."""
GONE = {"session_closed", "session_expired", "session_not_found"}
BUSY = {"queue_full", "overloaded", "session_busy", "too_many_sessions", "deadline_exceeded"}
DOWN = {"engine_unavailable", "engine_lost", "draining", "insufficient_storage"}
TOO_MUCH = {"context_overflow", "too_many_images", "too_few_turns", "conversation_mismatch"}


class Desk:
    """All requests of one world."""

    def __init__(self, scene: Scene, witness: Witness) -> None:
        self.outcomes: dict[str, int] = {}
        """What came of requests -> how often"""
        self._scene = scene
        self._requests = scene.requests
        self._witness = witness
        self._num_requests = 0
        self._connection: Connection | None = None

    def connect(self, to: Connection | None) -> None:
        """Talk to this service from now on; ``None``: to nobody."""
        self._connection = to

    @property
    def to(self) -> Connection:
        assert self._connection is not None, "nobody asks a service that is not there"
        return self._connection

    def next_number(self) -> int:
        """Of a request."""
        self._num_requests += 1
        return self._num_requests

    def begin(self, request: Request, work: Callable[[], Awaitable[None]]) -> None:
        """Ask for something; ``work`` sends it, and looks at the reply."""
        self._requests[request.number] = request
        task = asyncio.create_task(self._see_to(request, work))
        task.add_done_callback(raise_failure)

    async def _see_to(
        self,
        request: Request,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        # Nothing is done in a ``finally``: when a service dies, its clients stop where they are.
        since, outcome = self.to.loop.time(), "done"
        looking = self.to.loop.call_later(OTHER_SECONDS, self._check_time, request, since)
        try:
            await work()
        except VlmError as error:
            outcome = request.error = error.code
            self._check_error(request, error)
        looking.cancel()
        self._check_time(request, since)
        request.is_open = False
        del self._requests[request.number]
        self.note(f"{request.name}: {outcome}")
        name = f"{type(request).__name__.lower()} {outcome}"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1

    def _check_error(self, request: Request, error: VlmError) -> None:
        code = error.code
        assert code in GONE | BUSY | DOWN | TOO_MUCH, f"{request.name}: {code}: {error.message}"
        if isinstance(request, Asking):
            assert not request.is_recorded, "an error changes nothing"
            request.was_denied = True
        session = self._witness.sessions.get(request.session_id or "")
        if code in GONE and session is not None and not isinstance(request, Closing):
            latest = self._scene.wall.latest_within(MOMENT_SECONDS + OTHER_SECONDS)
            assert latest >= session.expires_at, "a session is there until its time has come"

    def _check_time(self, request: Request, since: float) -> None:
        seconds, limit = self.to.loop.time() - since, OTHER_SECONDS
        if isinstance(request, Asking):
            settings = self._scene.settings
            seconds -= request.seconds_away
            limit = SLACK_SECONDS + (
                settings.stream_timeout_seconds
                if request.stream
                else settings.prompt_timeout_seconds
            )
        assert seconds <= limit, f"{request.name} was not answered within its time"

    def note(self, what: str) -> None:
        """For the trace."""
        self._scene.trace.add(self.to.loop.time(), what)


def raise_failure(task: asyncio.Task[None]) -> None:
    """When a task is done that nobody awaits: have the world end by what it has raised."""
    if not task.cancelled():
        task.result()
