"""Files of API keys for tests, and what their clients send."""

from __future__ import annotations

from pathlib import Path

from vlm_sessions.access.key_file import add_line
from vlm_sessions.access.keys import new_key


def add_client(path: Path, name: str) -> str:
    """A new key of the client ``name``, with its line in the file."""
    key, line = new_key(name)
    add_line(path, line)
    return key


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
