"""HTTP to the service, and the few ways in which a request can end.

    an answer ─ Refused, with a code ─ Broke: the connection did ─ Hung: nothing in time

Unlike the product's client this one never repeats anything, and tells apart what a person would
not: whether the service has said what became of the request.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from bench.chaos.scripts import MAX_NEW_TOKENS, Picture, Question, Script
from vlm_sessions.client.sse import SseParser

SESSION = "x-amzn-sagemaker-session-id"
UNDECIDED = frozenset({"unavailable"})
"""Codes of the edge, which does not know what those behind it have done."""
RETRY_AFTER = frozenset({429, 503})
"""Statuses that must say when to come again."""


class Refused(Exception):
    """The service has answered with an error. The turn has not happened, if it is ``decided``."""

    def __init__(self, code: str, status: int | None) -> None:
        super().__init__(f"{code} ({status or 'in a stream'})")
        self.code = code

    @property
    def decided(self) -> bool:
        return self.code not in UNDECIDED


class Broke(Exception):
    """The connection ended without an answer: nobody knows what became of the request."""


class Hung(Exception):
    """Nothing within the time limit."""


class Garbled(Exception):
    """An answer that breaks the protocol."""


class Talk:
    """One connection pool to one service.

    Args:
        limit: seconds that any request may take, by the service's own promise and some slack.
        transport: in place of HTTP over the network.
    """

    def __init__(
        self, url: str, limit: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url + "/invocations"
        self._limit = limit
        self._http = httpx.AsyncClient(timeout=None, trust_env=False, transport=transport)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def open(self, script: Script) -> str:
        """The new session's id."""
        return str((await self.post(opening(script)))["session_id"])

    async def fork(self, session_id: str) -> str:
        """The new session's id."""
        return str((await self.post({"type": "fork_session"}, session_id))["session_id"])

    async def generate(self, script: Script) -> dict[str, Any]:
        """The script's first turn, without a session."""
        asked = prompt(script.questions[0], stream=False)
        return await self.post({**asked, **opening(script), "type": "generate"})

    async def ask(self, session_id: str, question: Question, *, stream: bool) -> dict[str, Any]:
        """The answer, or what a stream's last event says."""
        if not stream:
            return await self.post(prompt(question, stream=False), session_id)
        async with aclosing(self.events(prompt(question, stream=True), session_id)) as events:
            text = ""
            async for name, data in events:
                if name == "token":
                    text += data["text"]
                else:
                    break
            if data.get("text") != text:
                raise Garbled(f"a stream's pieces are {text!r}, its end says {data!r}")
            return data

    async def describe(self, session_id: str) -> dict[str, Any]:
        return await self.post({"type": "describe_session"}, session_id)

    async def close(self, session_id: str) -> dict[str, Any]:
        return await self.post({"type": "close_session"}, session_id)

    async def post(self, body: dict[str, Any], session_id: str | None = None) -> dict[str, Any]:
        """Send a command and return its reply.

        Raises:
            Refused, Broke, Hung, Garbled.
        """
        async with self._bounded():
            reply = await self._http.post(
                self._url, content=_encoded(body), headers=_headers(session_id)
            )
        return _read(reply)

    async def events(
        self, body: dict[str, Any], session_id: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """A stream's events by name; leaving early breaks the connection.

        Raises:
            Refused, Broke, Hung, Garbled.
        """
        headers, parser = _headers(session_id), SseParser()
        async with (
            self._bounded(),
            self._http.stream("POST", self._url, content=_encoded(body), headers=headers) as reply,
        ):
            if reply.status_code != 200:
                await reply.aread()
                _read(reply)
            async for chunk in reply.aiter_bytes():
                for event in parser.feed(chunk):
                    data = json.loads(event.data)
                    if event.event == "error":
                        raise Refused(data["error"]["code"], None)
                    yield event.event, data
                    if event.event == "done":
                        return
            raise Broke("a stream ended without an end")

    async def break_off_upload(self, body: dict[str, Any]) -> None:
        """Send half a request, and leave."""
        encoded = _encoded(body)

        async def half() -> AsyncIterator[bytes]:
            yield encoded[: len(encoded) // 2]
            raise _Left

        headers = {**_headers(None), "content-length": str(len(encoded))}
        try:
            async with self._bounded():
                await self._http.post(self._url, content=half(), headers=headers)
        except _Left:
            return

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limit):
                yield
        except TimeoutError as exc:
            raise Hung(f"nothing within {self._limit:g} s") from exc
        except httpx.TransportError as exc:
            raise Broke(f"{type(exc).__name__}: {exc}") from exc


class _Left(Exception):
    """Thrown by a client at itself."""


def prompt(question: Question, *, stream: bool) -> dict[str, Any]:
    """The request that asks ``question``."""
    return {
        "type": "prompt",
        "prompt": question.prompt,
        "images": _wire_images([question.picture] if question.picture else []),
        "stream": stream,
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def opening(script: Script) -> dict[str, Any]:
    """The request that opens a session for ``script``."""
    images = _wire_images(script.opening)
    return {"type": "open_session", "images": images, "system": script.system}


def _wire_images(pictures: Sequence[Picture]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(each.content).decode()} for each in pictures]


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def _headers(session_id: str | None) -> dict[str, str]:
    kind = {"content-type": "application/json"}
    return kind if session_id is None else {**kind, SESSION: session_id}


def _read(reply: httpx.Response) -> dict[str, Any]:
    try:
        body: dict[str, Any] = reply.json()
        if reply.status_code == 200:
            return body
        code = body["error"]["code"]
    except (ValueError, KeyError, TypeError) as exc:
        raise Garbled(f"{reply.status_code} with {reply.text[:200]!r}") from exc
    if reply.status_code in RETRY_AFTER and "retry-after" not in reply.headers:
        raise Garbled(f"{reply.status_code} {code} does not say when to come again")
    raise Refused(code, reply.status_code)
