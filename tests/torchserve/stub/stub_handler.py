"""A handler that stands for the service where only the way to it and back is under test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ts.protocol.otf_message_handler import create_predict_response
from ts.service import Service

from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.torchserve import Worker

_aborted: dict[str, asyncio.Event] = {}


def _aborted_event(request_id: str) -> asyncio.Event:
    return _aborted.setdefault(request_id, asyncio.Event())


def _json(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, {"content-type": "application/json"}, json.dumps(value).encode())


async def _stream(num_chunks: int, size: int, delay: float) -> AsyncGenerator[bytes]:
    for index in range(num_chunks):
        yield (b"%06d " % index).ljust(size, b".")
        await asyncio.sleep(delay)


async def _break_off() -> AsyncGenerator[bytes]:
    yield b"so far"
    raise RuntimeError("what no service should do: raise in a stream")


async def _answer(request: HttpRequest) -> HttpReply:  # noqa: PLR0911
    header = request.headers.get
    match request.path:
        case "/ping":
            return _json({})
        case "/v1/echo":
            digest = hashlib.sha256(request.body).hexdigest()
            seen = {"method": request.method, "path": request.path, "sha256": digest}
            ids = {"size": len(request.body), "request_id": request.request_id}
            return _json(seen | ids | {"headers": dict(request.headers)})
        case "/v1/answer":
            body = b"a" * int(header("x-size", "0"))
            return HttpReply(int(header("x-status", "200")), {"x-kept": "yes"}, body)
        case "/v1/stream":
            chunks = _stream(
                int(header("x-chunks", "10")),
                int(header("x-size", "16")),
                float(header("x-delay", "0")),
            )
            return HttpReply(200, {"content-type": "text/event-stream"}, chunks)
        case "/v1/break":
            return HttpReply(200, {"content-type": "text/event-stream"}, _break_off())
        case "/v1/wait":
            await asyncio.sleep(float(header("x-delay", "0")))
            return _json({"waited": True})
        case "/v1/aborted":
            await asyncio.wait_for(_aborted_event(header("x-wanted", "")).wait(), 10)
            return _json({"aborted": True})
        case "/v1/pid":
            return _json({"pid": os.getpid()})
    raise RuntimeError("what no service should do: raise")


class _App:
    start_called = False

    async def start(self) -> None:
        self.start_called = True

    async def handle(self, request: HttpRequest) -> HttpReply:
        return await _answer(request)

    async def cancel_request(self, request_id: str) -> bool:
        _aborted_event(request_id).set()
        return True

    async def close(self) -> None:
        self.start_called = False


_App.__module__ = "stub_app"  # TorchServe takes the one class of this module for the handler


class StubHandler:
    def initialize(self, ctx: Any) -> None:
        self._worker = Worker(create_predict_response, os.environ)
        self._worker.adopt(ctx, Service)
        self._worker.start(_App)

    async def handle(self, data: list[Mapping[str, Any]], ctx: Any) -> list[str]:
        return await self._worker.handle(data, ctx)
