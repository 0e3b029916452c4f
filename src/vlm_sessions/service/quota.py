"""What one client may have in the service at a time: prompts, and sessions being opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from vlm_sessions.errors import QueueFull


class Quota:
    """Counts by client. Belongs to one event loop.

    Args:
        most: of one client; 0: no limit. ``None`` is a client as well: everybody, while there are
            no API keys.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._num_of: Counter[str | None] = Counter()

    @contextmanager
    def place(self, client: str | None) -> Iterator[None]:
        """Inside, one more of this client is waiting or running.

        Raises:
            QueueFull: it has as many as it may.
        """
        if self._most and self._num_of[client] >= self._most:
            raise QueueFull(
                f"You have {self._most} prompts and openings waiting or running, which is the "
                "limit for one client. Wait for an answer; VLM_MAX_QUEUED_PER_KEY raises the limit."
            )
        self._num_of[client] += 1
        try:
            yield
        finally:
            self._num_of[client] -= 1
            if not self._num_of[client]:
                del self._num_of[client]
