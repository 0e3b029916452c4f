"""API keys, and the lines of a file that say whose they are.

    vlm-qTk3…                 a key, known to its client alone
    alice:9f86d081884c7d65…   its line: the client's name, and the key's SHA-256 in hex

A key is 256 bits of the system's random source, so its digest need not be a slow one: there is
nothing to guess. Several lines may have one name: that is how a client changes its key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from vlm_sessions.errors import ConfigError

KEY_PREFIX = "vlm-"
"""By which people, and scanners for leaked secrets, know what it is."""
KEY_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """What the service knows of a key."""

    name: str
    """Of the client: sessions, limits and log lines go by it."""
    digest: bytes = field(repr=False)
    """SHA-256 of the key."""

    def __str__(self) -> str:
        return f"{self.name}:{self.digest.hex()}"


class KeyRing:
    """The keys that are in force. Never changes."""

    def __init__(self, lines: Iterable[KeyLine]) -> None:
        self._lines = tuple(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def owner_of(self, key: str) -> str | None:
        """The name of the client whose key this is; ``None``: nobody's.

        Takes as long for every key: all lines are compared, each in constant time.
        """
        digest = digest_key(key)
        owner = None
        for line in self._lines:
            if hmac.compare_digest(line.digest, digest):
                owner = line.name
        return owner


def new_key(name: str) -> tuple[str, KeyLine]:
    """A fresh key for the client ``name``, and its line.

    Raises:
        ConfigError: ``name`` is not a name.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{name!r} is not a client's name: letters and digits, and after the first also "
            "'.', '_' and '-', at most 64."
        )
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, KeyLine(name, digest_key(key))


def digest_key(key: str) -> bytes:
    """What is kept of a key. Whatever a header may hold can be digested."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_lines(text: str) -> KeyRing:
    """The keys of a file's text. Empty lines, and those that begin with ``#``, say nothing.

    Raises:
        ConfigError: a line is malformed. The message has its number, never its words: somebody may
            have written a key where its digest belongs.
    """
    lines: list[KeyLine] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, _, digest = line.partition(":")
        if _NAME.fullmatch(name) is None or _DIGEST.fullmatch(digest) is None:
            raise ConfigError(
                f"line {number} is not NAME:SHA256, a client's name and the 64 lower-case hex "
                "digits of its key's SHA-256. `vlm-sessions keys new NAME` makes such lines."
            )
        lines.append(KeyLine(name, bytes.fromhex(digest)))
    return KeyRing(lines)
