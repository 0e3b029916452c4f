"""Helpers for tests of the door: requests, an endpoint over a stub service, replies taken apart."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.support.stub_service import SESSION, StubService
from vlm_sessions.client.sse import ServerSentEvent, SseParser
from vlm_sessions.config import Settings
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.engine.types import EngineStats
from vlm_sessions.metrics import Metrics
from vlm_sessions.protocol.http import HttpReply, HttpRequest

SESSION_HEADER = "x-amzn-sagemaker-session-id"
REQUEST_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
MODEL = "demo"


def request(
    body: Mapping[str, Any] | bytes = b"",
    *,
    session: str | None = None,
    path: str = "/invocations",
    method: str = "POST",
    content_type: str | None = "application/json",
    request_id: str = REQUEST_ID,
) -> HttpRequest:
    """A request as the adapter makes it: header names in lower case."""
    headers: dict[str, str] = {}
    if content_type is not None:
        headers["content-type"] = content_type
    if session is not None:
        headers[SESSION_HEADER] = session
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpRequest(request_id, method, path, headers, data)


def in_session(body: Mapping[str, Any], **options: Any) -> HttpRequest:
    """A request that names the stub's session."""
    return request(body, session=SESSION, **options)


def steady(stats: EngineStats) -> Callable[[], Awaitable[EngineStats]]:
    """An engine whose figures are always these."""

    async def engine_stats() -> EngineStats:
        return stats

    return engine_stats


def make_endpoint(
    service: StubService,
    *,
    metrics: Metrics | None = None,
    engine_stats: Callable[[], Awaitable[EngineStats]] | None = None,
    engine_stats_timeout_seconds: float = 1.0,
    log_content: bool = False,
) -> Endpoint:
    return Endpoint(
        service,
        Settings(max_payload_mb=1, log_content=log_content),
        metrics or Metrics(),
        model=MODEL,
        engine_stats=engine_stats or steady(EngineStats()),
        num_open_sessions=lambda: 7,
        engine_stats_timeout_seconds=engine_stats_timeout_seconds,
        wall_clock=lambda: 1_767_323_045.5,
    )


async def ask(service: StubService, asked: HttpRequest) -> HttpReply:
    """One request to a fresh endpoint."""
    return await make_endpoint(service).handle(asked)


def json_of(reply: HttpReply) -> dict[str, Any]:
    assert isinstance(reply.body, bytes)
    value = json.loads(reply.body)
    assert isinstance(value, dict)
    return value


def code_of(reply: HttpReply) -> str:
    code = json_of(reply)["error"]["code"]
    assert isinstance(code, str)
    return code


async def events_of(reply: HttpReply) -> list[ServerSentEvent]:
    """A streamed reply, read to its end by the product's own client."""
    assert not isinstance(reply.body, bytes)
    parser = SseParser()
    return [event async for chunk in reply.body for event in parser.feed(chunk)]
