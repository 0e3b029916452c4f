"""What /metrics tells: Prometheus metrics of the door, and the engine's figures as they are now.

Units are base units and stand in the names (seconds, bytes). Each ``Metrics`` has a registry of its
own; there is no global one. It knows the engine's figures by their names only (``EngineFigures``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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


class EngineFigures(Protocol):
    """The figures of an engine that are passed on; ``engine.types.EngineStats`` has them."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def blocks_total(self) -> int: ...
    @property
    def blocks_in_use(self) -> int: ...
    @property
    def blocks_cached(self) -> int: ...
    @property
    def blocks_retained(self) -> int: ...
    @property
    def features_cached(self) -> int: ...
    @property
    def feature_bytes(self) -> int: ...
    @property
    def pixels_cached(self) -> int: ...
    @property
    def pixel_bytes(self) -> int: ...
    @property
    def steps_total(self) -> int: ...
    @property
    def prompt_tokens_total(self) -> int: ...
    @property
    def cached_tokens_total(self) -> int: ...
    @property
    def generated_tokens_total(self) -> int: ...
    @property
    def images_encoded_total(self) -> int: ...
    @property
    def feature_hits_total(self) -> int: ...
    @property
    def blocks_evicted_total(self) -> int: ...
    @property
    def blocks_copied_total(self) -> int: ...
    @property
    def preemptions_total(self) -> int: ...
    @property
    def restarts_total(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Figure:
    """A name, what it says, and where it is read."""

    name: str
    help: str
    read: Callable[[EngineFigures], int]


_GAUGES = (
    _Figure("vlm_engine_running_turns", "Turns being computed.", lambda e: e.running),
    _Figure("vlm_engine_waiting_turns", "Turns waiting for the engine.", lambda e: e.waiting),
    _Figure("vlm_kv_blocks_capacity", "KV blocks in the pool.", lambda e: e.blocks_total),
    _Figure(
        "vlm_kv_blocks_in_use", "KV blocks referenced by running turns.", lambda e: e.blocks_in_use
    ),
    _Figure(
        "vlm_kv_blocks_cached",
        "KV blocks with a reusable prefix, referenced by no running turn.",
        lambda e: e.blocks_cached,
    ),
    _Figure(
        "vlm_kv_blocks_retained",
        "Cached KV blocks kept for an open session.",
        lambda e: e.blocks_retained,
    ),
    _Figure(
        "vlm_feature_cache_images", "Images whose features are kept.", lambda e: e.features_cached
    ),
    _Figure("vlm_feature_cache_bytes", "Bytes of image features kept.", lambda e: e.feature_bytes),
    _Figure("vlm_pixel_cache_images", "Images whose pixels are kept.", lambda e: e.pixels_cached),
    _Figure("vlm_pixel_cache_bytes", "Bytes of pixel tensors kept.", lambda e: e.pixel_bytes),
)

# Since the engine process started: a restart sets them to zero, as Prometheus expects of counters.
_COUNTERS = (
    _Figure("vlm_engine_steps", "Steps of the engine.", lambda e: e.steps_total),
    _Figure(
        "vlm_engine_prompt_tokens", "Prompt tokens of all turns.", lambda e: e.prompt_tokens_total
    ),
    _Figure(
        "vlm_engine_cached_tokens",
        "Prompt tokens found in KV blocks and not computed.",
        lambda e: e.cached_tokens_total,
    ),
    _Figure("vlm_engine_generated_tokens", "Tokens sampled.", lambda e: e.generated_tokens_total),
    _Figure(
        "vlm_engine_images_encoded",
        "Images run through the vision tower.",
        lambda e: e.images_encoded_total,
    ),
    _Figure(
        "vlm_engine_feature_hits",
        "Images whose features were found rather than computed.",
        lambda e: e.feature_hits_total,
    ),
    _Figure(
        "vlm_engine_blocks_evicted", "KV blocks evicted for room.", lambda e: e.blocks_evicted_total
    ),
    _Figure(
        "vlm_engine_blocks_copied",
        "KV blocks copied, of which only a part could be reused.",
        lambda e: e.blocks_copied_total,
    ),
    _Figure(
        "vlm_engine_preemptions",
        "Turns set back to make room for others.",
        lambda e: e.preemptions_total,
    ),
    _Figure("vlm_engine_restarts", "Engine processes replaced.", lambda e: e.restarts_total),
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
        self._engine = _EngineCollector()
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


class _EngineCollector(Collector):
    """Passes on the figures that it was last given; none until then."""

    def __init__(self) -> None:
        self.figures: EngineFigures | None = None

    def collect(self) -> Iterator[Metric]:
        if self.figures is None:
            return
        for figure in _GAUGES:
            yield GaugeMetricFamily(figure.name, figure.help, value=figure.read(self.figures))
        for figure in _COUNTERS:
            yield CounterMetricFamily(figure.name, figure.help, value=figure.read(self.figures))
