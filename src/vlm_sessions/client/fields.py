"""Typed reading of JSON that somebody else wrote. Fields that are not asked for are ignored, so
that a newer service may say more."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from vlm_sessions.client.errors import ProtocolError

T = TypeVar("T")


class Fields:
    """A JSON object whose fields are taken by name and type.

    Every method raises ``ProtocolError`` when the field is missing or of another type.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ProtocolError(f"expected a JSON object, got {type(value).__name__}")
        self._values: dict[str, object] = value

    @classmethod
    def parse(cls, text: bytes | str) -> Fields:
        try:
            return cls(json.loads(text))
        except ValueError as exc:
            raise ProtocolError("the service's reply is not JSON") from exc

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str) -> str:
        return self._take(name, str)

    def integer(self, name: str) -> int:
        return self._take(name, int)

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        return float(value)

    def flag(self, name: str) -> bool:
        return self._take(name, bool)

    def time(self, name: str) -> datetime:
        """An RFC 3339 time."""
        try:
            return datetime.fromisoformat(self.text(name)).astimezone(UTC)
        except ValueError as exc:
            raise self._wrong(name, "a time") from exc

    def object(self, name: str) -> Fields:
        return Fields(self._take(name, dict))

    def objects(self, name: str, parse: Callable[[Fields], T]) -> tuple[T, ...]:
        return tuple(parse(Fields(item)) for item in self._take(name, list))

    def texts(self, name: str) -> tuple[str, ...]:
        items = self._take(name, list)
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(name, "a list of strings")
        return tuple(items)

    def _take(self, name: str, kind: type[T]) -> T:
        value = self._values.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(name, kind.__name__)
        return value

    def _wrong(self, name: str, expected: str) -> ProtocolError:
        got = type(self._values[name]).__name__ if name in self._values else "nothing"
        return ProtocolError(f"field {name!r} of the reply: expected {expected}, got {got}")
