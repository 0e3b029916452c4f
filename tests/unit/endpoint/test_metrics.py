"""What /metrics tells after requests of all kinds, as a Prometheus parser reads it."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.support.door import events_of, in_session, make_endpoint, request, steady
from tests.support.stub_service import ANSWER_EVENTS, StubService, answer
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.engine.types import EngineStats
from vlm_sessions.errors import EngineLost, QueueFull
from vlm_sessions.metrics import Metrics
from vlm_sessions.protocol.schema import TextDelta

STATS = EngineStats(
    running=2, waiting=3, blocks_total=100, blocks_in_use=10, blocks_cached=40, blocks_retained=30,
    features_cached=4, feature_bytes=4096, pixels_cached=5, pixel_bytes=5120, steps_total=6,
    prompt_tokens_total=700, cached_tokens_total=600, generated_tokens_total=80,
    images_encoded_total=9, feature_hits_total=11, blocks_evicted_total=12, preemptions_total=13,
    restarts_total=1, blocks_copied_total=15,
)  # fmt: skip

SINGLE = in_session({"type": "prompt", "prompt": "x"})
STREAMED = in_session({"type": "prompt", "prompt": "x", "stream": True})


async def samples(endpoint: Endpoint) -> dict[str, float]:
    """``name{label,…}`` → value; labels without their names, in alphabetical order of these."""
    reply = await endpoint.handle(request(path="/metrics", method="GET"))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    assert isinstance(reply.body, bytes)
    return {
        _key(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def _key(name: str, labels: dict[str, str]) -> str:
    values = ",".join(labels[label] for label in sorted(labels))
    return f"{name}{{{values}}}" if values else name


async def test_requests_are_counted_by_operation_route_and_status() -> None:
    endpoint = make_endpoint(StubService())

    await endpoint.handle(SINGLE)
    await endpoint.handle(SINGLE)
    await endpoint.handle(request(b"{"))

    told = await samples(endpoint)
    assert told["vlm_requests_total{prompt,invocations,200}"] == 2
    assert told["vlm_requests_total{none,invocations,400}"] == 1
    assert told["vlm_request_seconds_count{prompt}"] == 2


async def test_errors_are_counted_by_code_also_within_streams() -> None:
    service = StubService(script=(TextDelta(text="a"), EngineLost("x")))
    endpoint = make_endpoint(service)

    await events_of(await endpoint.handle(STREAMED))
    service.refusal = QueueFull("x")
    await endpoint.handle(SINGLE)

    told = await samples(endpoint)
    assert told["vlm_errors_total{engine_lost}"] == 1
    assert told["vlm_errors_total{queue_full}"] == 1
    assert told["vlm_requests_total{prompt,invocations,200}"] == 1
    assert told["vlm_requests_total{prompt,invocations,429}"] == 1


async def test_a_stream_counts_once_however_it_is_left() -> None:
    endpoint = make_endpoint(StubService())

    reply = await endpoint.handle(STREAMED)
    await events_of(reply)
    await reply.body.aclose()  # type: ignore[union-attr]

    assert (await samples(endpoint))["vlm_requests_total{prompt,invocations,200}"] == 1


async def test_first_tokens_are_told_apart_by_turn_and_cache() -> None:
    service = StubService(script=(*ANSWER_EVENTS[:2], answer(turn_index=0, cached_tokens=0)))
    endpoint = make_endpoint(service)
    await endpoint.handle(SINGLE)
    service.script = (*ANSWER_EVENTS[:2], answer(turn_index=1, cached_tokens=70))
    await events_of(await endpoint.handle(STREAMED))

    told = await samples(endpoint)
    assert told["vlm_time_to_first_token_seconds_count{false,first}"] == 1
    assert told["vlm_time_to_first_token_seconds_count{true,follow_up}"] == 1
    assert told["vlm_inter_token_seconds_count"] == 2


async def test_tokens_in_cached_and_out_add_up() -> None:
    endpoint = make_endpoint(StubService())

    await endpoint.handle(SINGLE)
    await endpoint.handle(SINGLE)

    told = await samples(endpoint)
    assert told["vlm_prompt_tokens_total"] == 160
    assert told["vlm_cached_prompt_tokens_total"] == 140
    assert told["vlm_completion_tokens_total"] == 6


async def test_levels_of_sessions_and_caches_are_those_of_now() -> None:
    told = await samples(make_endpoint(StubService(), engine_stats=steady(STATS)))

    assert told["vlm_open_sessions"] == 7
    assert told["vlm_engine_running_turns"] == 2
    assert told["vlm_engine_waiting_turns"] == 3
    assert told["vlm_kv_blocks_capacity"] == 100
    assert told["vlm_kv_blocks_in_use"] == 10
    assert told["vlm_kv_blocks_cached"] == 40
    assert told["vlm_kv_blocks_retained"] == 30
    assert told["vlm_feature_cache_images"] == 4
    assert told["vlm_feature_cache_bytes"] == 4096
    assert told["vlm_pixel_cache_images"] == 5
    assert told["vlm_pixel_cache_bytes"] == 5120
    assert told["vlm_engine_steps_total"] == 6
    assert told["vlm_engine_prompt_tokens_total"] == 700
    assert told["vlm_engine_cached_tokens_total"] == 600
    assert told["vlm_engine_generated_tokens_total"] == 80
    assert told["vlm_engine_images_encoded_total"] == 9
    assert told["vlm_engine_feature_hits_total"] == 11
    assert told["vlm_engine_blocks_evicted_total"] == 12
    assert told["vlm_engine_blocks_copied_total"] == 15
    assert told["vlm_engine_preemptions_total"] == 13
    assert told["vlm_engine_restarts_total"] == 1


def test_two_doors_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.count_error("internal")

    assert b'vlm_errors_total{code="internal"} 1.0' in first.render(
        engine=None, num_open_sessions=0
    )
    assert b"internal" not in second.render(engine=None, num_open_sessions=0)


async def test_an_engine_that_does_not_answer_leaves_the_last_figures() -> None:
    metrics = Metrics()
    metrics.render(engine=STATS, num_open_sessions=0)

    async def never() -> EngineStats:
        await asyncio.Event().wait()
        raise AssertionError

    endpoint = make_endpoint(
        StubService(), metrics=metrics, engine_stats=never, engine_stats_timeout_seconds=0
    )

    assert (await samples(endpoint))["vlm_kv_blocks_capacity"] == 100
