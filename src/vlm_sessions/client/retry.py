"""When a request may be sent again."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from vlm_sessions.client.wire import Reply, Request

RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
DEFAULT_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Repeats only what the service refused before it did anything: 429 and 503.

    A prompt makes the model work and its caller wait, so it is repeated only with ``prompts``. A
    broken connection is never retried: nobody knows what the service did.

    Attributes:
        num_retries: of one request, at most.
        prompts: whether prompts are repeated too.
        longest_pause: seconds; a service that asks for more is not waited for.
    """

    num_retries: int = 2
    prompts: bool = False
    longest_pause: float = 30.0

    def pause(self, request: Request, reply: Reply, num_tries: int) -> float | None:
        """Seconds to wait before sending ``request`` again; ``None``: ``reply`` stands."""
        if reply.status not in RETRIED or num_tries > self.num_retries:
            return None
        if request.is_prompt and not self.prompts:
            return None
        if reply.status == HTTPStatus.SERVICE_UNAVAILABLE and not request.repeatable:
            return None
        pause = DEFAULT_PAUSE_SECONDS if reply.retry_after is None else reply.retry_after
        return pause if pause <= self.longest_pause else None
