"""One request at a time over HTTP, timed: as thin as it can be, so that many fit into one process.

Times are seconds by ``time.perf_counter``.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from vlm_sessions.client.sse import SseParser

SESSION_HEADER = "X-Amzn-SageMaker-Session-Id"
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``status`` 0: nothing, the connection broke or took too long."""

    sent_at: float
    ended_at: float
    status: int
    code: str = ""
    """Of an error, also of one at the end of a stream."""
    retry_after: str | None = None
    session_id: str = ""
    text: str = ""
    pieces: tuple[float, ...] = ()
    """When each piece of an answer came."""

    @property
    def is_refused(self) -> bool:
        return self.status == 429

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and not self.code

    @property
    def seconds(self) -> float:
        return self.ended_at - self.sent_at


class LoadClient:
    """Requests to one service over as many connections as they need."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = f"{url}/invocations"
        self._http = http

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str) -> AsyncIterator[LoadClient]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        ) as http:
            yield cls(url, http)

    async def open(self, picture: bytes) -> Reply:
        """Open a session with a JPEG."""
        return await self._send(picture, {"Content-Type": "image/jpeg"})

    async def ask(self, session_id: str, question: str, *, num_tokens: int) -> Reply:
        """Stream an answer of so many tokens."""
        command = {
            **{"type": "prompt", "prompt": question, "stream": True},
            **{"max_new_tokens": num_tokens, "ignore_eos": True},
        }
        return await self._command(session_id, command)

    async def answer(self, session_id: str, question: str, *, num_tokens: int) -> Reply:
        """Ask for a whole answer, as long as it comes out, up to so many tokens."""
        command = {"type": "prompt", "prompt": question, "max_new_tokens": num_tokens}
        return await self._command(session_id, command)

    async def describe(self, session_id: str) -> Reply:
        return await self._command(session_id, {"type": "describe_session"})

    async def close(self, session_id: str) -> Reply:
        return await self._command(session_id, {"type": "close_session"})

    async def _command(self, session_id: str, command: Mapping[str, object]) -> Reply:
        headers = {"Content-Type": "application/json", SESSION_HEADER: session_id}
        return await self._send(json.dumps(command).encode(), headers)

    async def _send(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        sent_at = time.perf_counter()
        try:
            async with self._http.post(self._url, data=body, headers=headers) as response:
                if response.content_type == "text/event-stream":
                    return await _read_stream(response, sent_at)
                return _whole(await response.read(), response, sent_at)
        except (aiohttp.ClientError, TimeoutError) as exc:
            return Reply(sent_at, time.perf_counter(), 0, type(exc).__name__)


async def _read_stream(response: aiohttp.ClientResponse, sent_at: float) -> Reply:
    parser, pieces, text, code = SseParser(), [], [], "cut_off"
    async for chunk in response.content.iter_any():
        now = time.perf_counter()
        for event in parser.feed(chunk):
            match event.event:
                case "token":
                    pieces.append(now)
                    text.append(json.loads(event.data)["text"])
                case "done":
                    code = ""
                case _:
                    code = json.loads(event.data)["error"]["code"]
    return Reply(
        sent_at,
        time.perf_counter(),
        response.status,
        code,
        text="".join(text),
        pieces=tuple(pieces),
    )


def _whole(body: bytes, response: aiohttp.ClientResponse, sent_at: float) -> Reply:
    content: dict[str, Any] = json.loads(body)
    return Reply(
        sent_at,
        time.perf_counter(),
        response.status,
        code=content.get("error", {}).get("code", ""),
        retry_after=response.headers.get("Retry-After"),
        session_id=content.get("session_id", ""),
        text=content.get("text", ""),
    )
