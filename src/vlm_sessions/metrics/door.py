"""What /metrics tells: Prometheus metrics of the door, and the engine's figures as they are now.

Units are base units and stand in the names (seconds, bytes). Each ``Metrics`` has a registry of its
own; there is no global one. It knows the engine's figures by their names only (``figures.py``).
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vlm_sessions.metrics.engine import EngineCollector
from vlm_sessions.metrics.figures import EngineFigures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Turn = Literal["first", "follow_up"]

# From a follow-up on cached KV of a small model to a cold start of a big one under load.
_FIRST_TOKEN_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5),
    *(0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0),
)
_INTER_TOKEN_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02),
    *(0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
_REQUEST_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 480.0),
)


class Metrics:
    """Counts what passes the door. For one event loop: no method blocks, none may be shared."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vlm_requests",
            "Requests answered.",
            ("route", "operation", "status"),
            registry=self._registry,
        )
        self._errors = Counter(
            "vlm_errors",
            "Errors told to clients, in replies and in streams.",
            ("code",),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "vlm_request_seconds",
            "From a request's arrival to the end of its reply.",
            ("operation",),
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._first_token_seconds = Histogram(
            "vlm_time_to_first_token_seconds",
            "From a prompt's arrival to the first text of its answer.",
            ("turn", "cached"),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._inter_token_seconds = Histogram(
            "vlm_inter_token_seconds",
            "Between one piece of an answer's text and the next.",
            buckets=_INTER_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self._prompt_tokens = Counter(
            "vlm_prompt_tokens", "Prompt tokens of finished answers.", registry=self._registry
        )
        self._cached_prompt_tokens = Counter(
            "vlm_cached_prompt_tokens",
            "Those prompt tokens that were cached.",
            registry=self._registry,
        )
        self._completion_tokens = Counter(
            "vlm_completion_tokens", "Tokens of finished answers.", registry=self._registry
        )
        self._open_sessions = Gauge("vlm_open_sessions", "Sessions open.", registry=self._registry)
        self._engine = EngineCollector()
        self._registry.register(self._engine)

    def count_request(self, *, route: str, operation: str, status: int, seconds: float) -> None:
        """A request has been answered to its end. Labels come from fixed lists, never a client."""
        self._requests.labels(route, operation, str(status)).inc()
        self._request_seconds.labels(operation).observe(seconds)

    def count_error(self, code: str) -> None:
        self._errors.labels(code).inc()

    def observe_first_token(self, seconds: float, *, turn: Turn, cached: bool) -> None:
        """``cached``: whether any of the prompt was found in KV blocks."""
        self._first_token_seconds.labels(turn, "true" if cached else "false").observe(seconds)

    def observe_inter_token(self, seconds: float) -> None:
        self._inter_token_seconds.observe(seconds)

    def count_tokens(self, *, prompt: int, cached: int, completion: int) -> None:
        self._prompt_tokens.inc(prompt)
        self._cached_prompt_tokens.inc(cached)
        self._completion_tokens.inc(completion)

    def render(self, *, engine: EngineFigures | None, num_open_sessions: int) -> bytes:
        """Prometheus text. Without fresh engine figures the last ones are told again."""
        self._open_sessions.set(num_open_sessions)
        if engine is not None:
            self._engine.figures = engine
        return generate_latest(self._registry)
