"""What a dialect gives: a request understood, and a writer for its replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vlm_sessions.errors import VlmError
from vlm_sessions.protocol.schema import (
    Answer,
    Cancelled,
    Closed,
    Command,
    Described,
    Opened,
    Rewound,
    TextDelta,
)


class ReplyWriter(Protocol):
    """Results in a dialect's words, as the bytes of a body or of a stream's next part.

    Without state: the parts of a stream may be written by the same writer as anything else.
    """

    def opened(self, opened: Opened) -> bytes: ...

    def answer(self, answer: Answer) -> bytes: ...

    def cancelled(self, cancelled: Cancelled) -> bytes: ...

    def described(self, described: Described) -> bytes: ...

    def rewound(self, rewound: Rewound) -> bytes: ...

    def closed(self, closed: Closed) -> bytes: ...

    def error(self, error: VlmError) -> bytes: ...

    def stream_start(self) -> bytes:
        """What goes before a stream's first event; may be empty."""
        ...

    def stream_delta(self, delta: TextDelta) -> bytes: ...

    def stream_answer(self, answer: Answer) -> bytes:
        """The end of a stream that succeeded."""
        ...

    def stream_error(self, error: VlmError) -> bytes:
        """The end of a stream that failed after it had begun."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request understood: what is asked, of which session, and how the answer is to be written.

    ``session_id`` is ``None`` outside any session. It is set for every command that needs one, and
    never for those that may not have one.
    """

    command: Command
    session_id: str | None
    writer: ReplyWriter
