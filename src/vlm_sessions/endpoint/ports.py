"""What the door needs of the service behind it. ``service.SessionService`` has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from vlm_sessions.protocol.schema import (
    AnswerEvent,
    Cancelled,
    Chat,
    Closed,
    Described,
    Generate,
    Lifetime,
    Opened,
    OpenSession,
    Prompt,
    RewindSession,
    Rewound,
)


class AnswerStream(Protocol):
    """An answer as it comes: ``TextDelta`` …, then exactly one ``Answer``, or a ``VlmError``.

    Closing ``events`` early cancels the prompt.
    """

    @property
    def lifetime(self) -> Lifetime | None:
        """Of the session, as this prompt has renewed it by its first event. ``None`` outside one,
        or if it could not be renewed."""
        ...

    @property
    def events(self) -> AsyncIterator[AnswerEvent]: ...


class Service(Protocol):
    """The session layer. All methods may raise any ``VlmError``, having changed nothing.

    ``client`` is who asks, ``None`` without API keys: the sessions of others are unknown to it.
    """

    @property
    def ready(self) -> bool:
        """Whether a prompt would succeed now."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the service is about to end, and no more should be sent to it."""
        ...

    @property
    def num_prompts(self) -> int:
        """Running or waiting."""
        ...

    async def open(self, command: OpenSession, /, *, client: str | None) -> Opened: ...

    async def prompt(
        self, session_id: str, command: Prompt | Chat, request_id: str, /, *, client: str | None
    ) -> AnswerStream: ...

    async def generate(
        self, command: Generate | Chat, request_id: str, /, *, client: str | None
    ) -> AnswerStream: ...

    async def cancel(self, session_id: str, /, *, client: str | None) -> Cancelled: ...

    async def describe(self, session_id: str, /, *, client: str | None) -> Described: ...

    async def fork(self, session_id: str, /, *, client: str | None) -> Opened: ...

    async def rewind(
        self, session_id: str, command: RewindSession, /, *, client: str | None
    ) -> Rewound: ...

    async def close_session(self, session_id: str, /, *, client: str | None) -> Closed: ...
