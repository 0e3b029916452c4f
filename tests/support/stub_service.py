"""A service that answers from a script, and remembers what it was asked.

For tests of the door: results are the real schema's, nothing is computed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.schema import (
    Answer,
    AnswerEvent,
    CacheState,
    Cancelled,
    Chat,
    Closed,
    Command,
    Described,
    Generate,
    ImageInfo,
    Lifetime,
    Opened,
    OpenSession,
    Prompt,
    RewindSession,
    Rewound,
    TextDelta,
    Timing,
    TurnInfo,
    Usage,
)

SESSION = "0123456789abcdef0123456789abcdef"
EXPIRES_AT = 1_767_323_045.9
EXPIRES = "2026-01-02T03:04:05Z"
LIFETIME = Lifetime(session_id=SESSION, expires_at=EXPIRES_AT)
FORK = Lifetime(session_id=SESSION[::-1], expires_at=EXPIRES_AT)
IMAGE = ImageInfo(sha256="ab" * 32, width=640, height=480, tokens=64)


def answer(text: str = "a red circle", *, turn_index: int = 0, cached_tokens: int = 70) -> Answer:
    """A finished answer of a session; its lifetime is the session's."""
    return Answer(
        text=text,
        finish_reason="stop",
        usage=Usage(prompt_tokens=80, cached_tokens=cached_tokens, completion_tokens=3),
        timing=Timing(queue_ms=0.5, ttft_ms=12.25, total_ms=20.0),
        lifetime=LIFETIME,
        turn_index=turn_index,
    )


ANSWER_EVENTS: tuple[AnswerEvent, ...] = (
    TextDelta(text="a red"),
    TextDelta(text=" circle"),
    answer(),
)


@dataclass(frozen=True, slots=True)
class StubStream:
    """What ``prompt`` and ``generate`` return."""

    lifetime: Lifetime | None
    events: AsyncIterator[AnswerEvent]


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of the service."""

    session_id: str | None
    command: Command | str
    """A command, or the name of a method that takes none."""
    request_id: str | None = None


@dataclass
class StubService:
    """``script`` is what every prompt yields; an exception in it is raised at its place."""

    script: Sequence[AnswerEvent | Exception] = ANSWER_EVENTS
    refusal: Exception | None = None
    """Raised by every method at once."""
    ready: bool = True
    draining: bool = False
    num_prompts: int = 0
    asked: list[Asked] = field(default_factory=list)
    num_streams_open: int = 0

    async def open(self, command: OpenSession, /, *, client: str | None) -> Opened:
        self._ask(None, command)
        return Opened(lifetime=LIFETIME, images=(IMAGE,) * len(command.images))

    async def prompt(
        self, session_id: str, command: Prompt | Chat, request_id: str, /, *, client: str | None
    ) -> StubStream:
        self._ask(session_id, command, request_id)
        return StubStream(LIFETIME, self._play())

    async def generate(
        self, command: Generate | Chat, request_id: str, /, *, client: str | None
    ) -> StubStream:
        self._ask(None, command, request_id)
        return StubStream(None, self._play())

    async def cancel(self, session_id: str, /, *, client: str | None) -> Cancelled:
        self._ask(session_id, "cancel")
        return Cancelled(lifetime=LIFETIME, cancelled=True)

    async def describe(self, session_id: str, /, *, client: str | None) -> Described:
        self._ask(session_id, "describe")
        return Described(
            lifetime=LIFETIME,
            created_at=EXPIRES_AT - 60,
            last_used_at=EXPIRES_AT - 30,
            max_expires_at=EXPIRES_AT + 60,
            system=None,
            images=(IMAGE,),
            turns=(
                TurnInfo(prompt="What?", images=(), answer="a red circle", finish_reason="stop"),
            ),
            tokens=83,
            caches=CacheState(
                kv_tokens=80,
                host_kv_tokens=16,
                feature_images=1,
                host_feature_images=0,
                pixel_images=0,
            ),
        )

    async def fork(self, session_id: str, /, *, client: str | None) -> Opened:
        self._ask(session_id, "fork")
        return Opened(lifetime=FORK, images=(IMAGE,))

    async def rewind(
        self, session_id: str, command: RewindSession, /, *, client: str | None
    ) -> Rewound:
        self._ask(session_id, command)
        return Rewound(lifetime=LIFETIME, rewound=command.turns, turns=1)

    async def close_session(self, session_id: str, /, *, client: str | None) -> Closed:
        self._ask(session_id, "close_session")
        return Closed(session_id=session_id)

    @property
    def command(self) -> Command | str:
        """What the last call asked for."""
        return self.asked[-1].command

    def _ask(
        self, session_id: str | None, command: Command | str, request_id: str | None = None
    ) -> None:
        self.asked.append(Asked(session_id, command, request_id))
        if self.refusal is not None:
            raise self.refusal

    async def _play(self) -> AsyncIterator[AnswerEvent]:
        self.num_streams_open += 1
        try:
            for event in self.script:
                if isinstance(event, Exception):
                    raise event
                # A session's answer carries its lifetime, another one none; the last call decides.
                if isinstance(event, Answer) and self.asked[-1].session_id is None:
                    yield event.model_copy(update={"lifetime": None})
                else:
                    yield event
        finally:
            self.num_streams_open -= 1


def refusing(error: VlmError) -> StubService:
    """A service that refuses everything with this."""
    return StubService(refusal=error)
