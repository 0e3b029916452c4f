"""What comes out of a prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from vlm_sessions.protocol.schema import AnswerEvent, Lifetime


@dataclass(frozen=True, slots=True)
class AnswerStream:
    """An answer on its way.

    ``events`` yields ``TextDelta`` …, then exactly one ``Answer``, or raises a ``VlmError``; the
    deltas' texts make the answer's text. Nothing runs before the first event is asked for. An
    answer counts, and is recorded, once its last delta has been taken and the next event asked
    for; leaving earlier (``aclose``) cancels the turn without a trace.
    """

    lifetime: Lifetime | None
    """To be announced once the first event is there; ``None`` without a session."""
    events: AsyncGenerator[AnswerEvent, None]
