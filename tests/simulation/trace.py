"""What happened in a run, in order: the last of it as text, all of it as a digest.

Two runs of one seed have the same digest, or something in them depends on more than the seed.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

NUM_KEPT = 200


class Trace:
    def __init__(self) -> None:
        self._hasher = blake2b(digest_size=16)
        self._last: deque[str] = deque(maxlen=NUM_KEPT)

    def add(self, time: float, what: str) -> None:
        line = f"{time:.6f} {what}"
        self._hasher.update(line.encode())
        self._last.append(line)

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def last(self, num_lines: int = 40) -> str:
        return "\n".join(list(self._last)[-num_lines:])
