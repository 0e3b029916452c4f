"""What comes out of a prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from vlm_sessions.protocol.schema import AnswerEvent, Lifetime
from vlm_sessions.service.work import Work


@dataclass(frozen=True, slots=True)
class AnswerStream:
    """An answer on its way.

    ``events`` yields ``TextDelta`` …, then exactly one ``Answer``, or raises a ``VlmError``; the
    deltas' texts make the answer's text. Nothing runs before the first event is asked for. An
    answer counts, and is recorded, once its last delta has been taken and the next event asked
    for; leaving earlier (``aclose``) cancels the turn without a trace.
    """

    work: Work
    events: AsyncGenerator[AnswerEvent, None]

    @property
    def lifetime(self) -> Lifetime | None:
        """To be announced once the first event is there, and not before. ``None`` without a
        session, or if it could not be renewed: then what was announced before still holds."""
        return self.work.lifetime
