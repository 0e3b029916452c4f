"""A handler that stands for the service where only the way to it and back is under test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ts.protocol.otf_message_handler import create_predict_response
from ts.service import Service

from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.torchserve import Worker

DRAINING = HttpReply(503, {"content-type": "application/json"}, b'{"error":{"code":"draining"}}')
_aborted: dict[str, asyncio.Event] = {}
_waiting: set[object] = set()


def _aborted_event(request_id: str) -> asyncio.Event:
    return _aborted.setdefault(request_id, asyncio.Event())


def _json(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, {"content-type": "application/json"}, json.dumps(value).encode())


async def _stream(num_chunks: int, size: int, delay: float) -> AsyncGenerator[bytes]:
    for index in range(num_chunks):
        yield (b"%06d " % index).ljust(size, b".")
        await asyncio.sleep(delay)


async def _wait(seconds: float) -> HttpReply:
    me = object()
    _waiting.add(me)
    try:
        await asyncio.sleep(seconds)
    finally:
        _waiting.discard(me)
    return _json({"waited": True})


async def _break_off() -> AsyncGenerator[bytes]:
    yield b"so far"
    raise RuntimeError("what no service should do: raise in a stream")


async def _answer(request: HttpRequest) -> HttpReply:  # noqa: PLR0911
    header = request.headers.get
    match request.path:
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
            return await _wait(float(header("x-delay", "0")))
        case "/v1/waiting":
            return _json({"num_waiting": len(_waiting)})
        case "/v1/aborted":
            await asyncio.wait_for(_aborted_event(header("x-wanted", "")).wait(), 10)
            return _json({"aborted": True})
        case "/v1/pid":
            return _json({"pid": os.getpid()})
        case "/v1/orphan":
            shell = await asyncio.create_subprocess_shell(
                f"sleep {header('x-delay', '0')} > /dev/null & echo $!", stdout=subprocess.PIPE
            )
            pid, _ = await shell.communicate()
            return _json({"pid": int(pid)})
    raise RuntimeError("what no service should do: raise")


class _App:
    leaving = draining = False

    async def start(self) -> None: ...

    async def handle(self, request: HttpRequest) -> HttpReply:
        if request.path == "/ping":
            return DRAINING if self.leaving else _json({})
        return DRAINING if self.draining else await _answer(request)

    async def cancel_request(self, request_id: str) -> bool:
        _aborted_event(request_id).set()
        return True

    def announce_drain(self) -> None:
        self.leaving = True

    def begin_drain(self) -> None:
        self.draining = True

    async def close(self) -> None: ...


_App.__module__ = "stub_app"  # TorchServe takes the one class of this module for the handler


class StubHandler:
    def initialize(self, ctx: Any) -> None:
        self._worker = Worker(create_predict_response, os.environ)
        self._worker.adopt(ctx, Service)
        self._worker.start(lambda _: _App())

    async def handle(self, data: list[Mapping[str, Any]], ctx: Any) -> list[str]:
        return await self._worker.handle(data, ctx)
