"""Server-sent events from chunks of bytes, however the chunks are cut.

After the WHATWG's "Server-sent events", less what the product does not send: ``id`` and ``retry``
are ignored, and there is no reconnecting, since a prompt must not run twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    data: str
    event: str = "message"


class SseParser:
    """Feed it chunks; it gives the events that became complete with each."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end within ``chunk``. May be empty, and more than one.

        A line ends with LF or CR LF (never a bare CR, which the product does not send), so a cut
        between the two, or inside a character's UTF-8 bytes, does no harm.
        """
        self._buffer += chunk
        if b"\n" not in chunk:  # a long line that comes in small pieces is looked at once
            return []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        events = (self._take_line(line.removesuffix(b"\r").decode()) for line in lines)
        return [event for event in events if event is not None]

    def _take_line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent("\n".join(data), event or "message") if data else None
