"""A replica without a model: speaks the service's HTTP, keeps sessions over restarts, drains.

It runs as a process of its own, so that a test can kill it, freeze it or tell it to drain, and it
takes settings of the real one: ``VLM_PORT``, ``VLM_STATE_DIR``, ``VLM_DRAIN_NOTICE_SECONDS``. An
answer tells who gave it and how many came before it in the session.

    {"type": "prompt", "tokens": 20, "pace": 0.1, "stream": true}    20 tokens, one each 0.1 s

With ``FAKE_KEYS`` (comma-separated) it asks for one of these keys, and keeps their sessions apart.

What a test wants to know of it or wants it to do goes to paths that no router forwards:

    GET  /fake          what it has received
    POST /fake          {"ping": {"status", "code", "seconds"}}: how /ping answers from now on
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

SESSION = "X-Amzn-SageMaker-Session-Id"
NEW_SESSION = "X-Amzn-SageMaker-New-Session-Id"
CLOSED_SESSION = "X-Amzn-SageMaker-Closed-Session-Id"
DRAIN_SECONDS = 25.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sessions:
    """Session id -> number of turns, or ``None`` once closed; every change is in a file at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.turns: dict[str, int | None] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                self.turns.update(json.loads(line))
        self._file = path.open("a", buffering=1)

    @property
    def num_open(self) -> int:
        return sum(turns is not None for turns in self.turns.values())

    def put(self, session_id: str, turns: int | None) -> None:
        self.turns[session_id] = turns
        self._file.write(json.dumps({session_id: turns}) + "\n")


class Replica:
    """One of them, from its settings."""

    def __init__(
        self, name: str, state_dir: Path, notice_seconds: float, keys: frozenset[str]
    ) -> None:
        self.name = name
        self.notice_seconds = notice_seconds
        self.sessions = Sessions(state_dir / "sessions.jsonl")
        self._keys = keys
        self._owners: dict[str, str] = {}  # session id -> the header with its key
        self.num_prompts = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_draining = False
        self.is_refusing = False
        self.ping: dict[str, Any] = {"status": 200, "code": "unavailable", "seconds": 0.0}
        self.received: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**25, middlewares=[self._note])
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/fake", self._tell)
        app.router.add_post("/fake", self._obey)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/invocations", self._invoke)
        return app

    async def drain(self) -> None:
        """Say so, go on for the notice time, then refuse what is new and finish what runs."""
        self.is_draining = True
        await asyncio.sleep(self.notice_seconds)
        self.is_refusing = True
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._is_idle.wait()
        except TimeoutError:
            pass

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in {"/ping", "/fake"}:
            self.received.append({"path": request.path, "headers": dict(request.headers)})
            if self.is_refusing:
                return _error(503, "draining", "The service is shutting down.")
            if self._keys and _key_of(request) not in self._keys:
                return _error(401, "unauthorized", "It asks for a key.")
        reply = await handler(request)
        if not reply.prepared:
            reply.headers["X-Request-Id"] = f"{self.name}-{len(self.received)}"
        return reply

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "received": self.received,
                "prompts": self.num_prompts,
                "sessions": self.sessions.turns,
            }
        )

    async def _obey(self, request: web.Request) -> web.Response:
        self.ping |= (await request.json())["ping"]
        return web.json_response({})

    async def _ping(self, _request: web.Request) -> web.Response:
        await asyncio.sleep(self.ping["seconds"])
        if self.is_draining:
            return _error(503, "draining", "The service is shutting down.")
        if self.ping["status"] != 200:
            return _error(self.ping["status"], self.ping["code"], "As the test wants it.")
        return web.json_response(
            {
                "status": "Healthy",
                "open_sessions": self.sessions.num_open,
                "prompts": self.num_prompts,
            }
        )

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, await request.json(), request.headers.get(SESSION, ""))

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.content_type.startswith("image/"):
            return self._open(request, len(body))
        try:
            asked = json.loads(body)
        except ValueError:
            return _error(400, "invalid_json", "The body is not JSON: “" + body.decode()[:3000])
        match asked.get("type") or asked.get("requestType"):
            case "open_session" | "start_session" | "NEW_SESSION":
                return self._open(request, len(body))
            case "generate":
                return await self._answer(request, asked, "")
        return await self._continue(request, asked, request.headers.get(SESSION, ""))

    async def _continue(
        self, request: web.Request, asked: dict[str, Any], session_id: str
    ) -> web.StreamResponse:
        is_anothers = self._owners.get(session_id, "") != _key_of(request) and self._keys
        if session_id not in self.sessions.turns or is_anothers:
            return _error(404, "session_not_found", "No such session.")
        if self.sessions.turns[session_id] is None:
            return _error(410, "session_closed", "The session was closed.")
        match asked.get("type"):
            case "describe_session":
                return web.json_response({"session_id": session_id, "replica": self.name})
            case "fork_session":
                return self._open(request, 0)
            case "close_session":
                self.sessions.put(session_id, None)
                return web.json_response({"closed": True}, headers={CLOSED_SESSION: session_id})
            case _:
                return await self._answer(request, asked, session_id)

    def _open(self, request: web.Request, num_bytes: int) -> web.Response:
        session_id = f"ts-seq-{secrets.token_hex(16)}"
        self._owners[session_id] = _key_of(request)
        self.sessions.put(session_id, 0)
        expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        announced = f"{session_id}; Expires={expires}"
        return web.json_response(
            {"session_id": session_id, "replica": self.name, "bytes": num_bytes},
            headers={SESSION: announced, NEW_SESSION: announced},
        )

    async def _answer(
        self, request: web.Request, asked: dict[str, Any], session_id: str
    ) -> web.StreamResponse:
        turn = self.sessions.turns.get(session_id, 0)
        said = {"replica": self.name, "turn": turn}
        self.num_prompts += 1
        self._is_idle.clear()
        try:
            if asked.get("stream"):
                reply = await self._stream(request, asked, said)
            else:
                await asyncio.sleep(asked.get("tokens", 0) * asked.get("pace", 0.0))
                reply = web.json_response(said)
        finally:
            self.num_prompts -= 1
            if not self.num_prompts:
                self._is_idle.set()
        if session_id and turn is not None:
            self.sessions.put(session_id, turn + 1)
        return reply

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], said: dict[str, Any]
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for number in range(asked.get("tokens", 0)):
            await reply.write(f"event: token\ndata: {number}\n\n".encode())
            await asyncio.sleep(asked.get("pace", 0.0))
        await reply.write(f"event: done\ndata: {json.dumps(said)}\n\n".encode())
        await reply.write_eof()
        return reply


def _key_of(request: web.Request) -> str:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return bearer or request.headers.get("X-Api-Key", "")


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.json_response(
        {"error": {"code": code, "message": message}}, status=status, headers=headers
    )


async def run() -> None:
    """Serve until SIGTERM, then drain."""
    port = int(os.environ["VLM_PORT"])
    replica = Replica(
        os.environ.get("FAKE_NAME") or f"port-{port}",
        Path(os.environ["VLM_STATE_DIR"]),
        float(os.environ.get("VLM_DRAIN_NOTICE_SECONDS", "0")),
        frozenset(filter(None, os.environ.get("FAKE_KEYS", "").split(","))),
    )
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    # A client that leaves ends its prompt at once.
    runner = web.AppRunner(
        replica.app(), handler_cancellation=True, shutdown_timeout=0, access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await told.wait()
    await replica.drain()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(run())
