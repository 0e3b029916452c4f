"""Carries requests of the ``openai`` client to an endpoint in this process.

``httpx2`` is what the ``openai`` package is built on, and comes with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from tests.support.door import REQUEST_ID
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.protocol.http import Chunks, HttpRequest


class EndpointTransport(httpx2.AsyncBaseTransport):
    """In place of a connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._endpoint.handle(
            HttpRequest(
                REQUEST_ID,
                request.method,
                request.url.path,
                {name.lower(): value for name, value in request.headers.items()},
                await request.aread(),
            )
        )
        if isinstance(reply.body, bytes):
            return httpx2.Response(reply.status, headers=dict(reply.headers), content=reply.body)
        return httpx2.Response(reply.status, headers=dict(reply.headers), stream=_Body(reply.body))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk
