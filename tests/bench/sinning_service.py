"""Sessions in memory behind a transport, by a service that goes wrong in one way at a time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.chaos.scripts import Script
from bench.chaos.talk import SESSION

EVERY = 7
"""One request in so many meets the service's sin."""


@dataclass
class _Session:
    system: str | None
    opening: list[str]
    """Digests of the pictures that it was opened with."""
    images: list[str]
    pending: list[str]
    """Those that wait for a first turn to belong to."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    cancelled: bool = False


class SinningService(httpx.AsyncBaseTransport):
    """Answers a question with a digest of all that was asked, shown and answered before.

    Args:
        scripts: whose pictures it knows.
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.sin = ""
        self._sessions: dict[str, _Session] = {}
        self._num_requests = 0
        pictures = [picture for script in scripts for picture in script.opening]
        later = [question.picture for script in scripts for question in script.questions]
        self._digests = {  # as it is sent -> digest
            base64.b64encode(picture.content).decode(): picture.digest
            for picture in (*pictures, *later)
            if picture is not None
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        self._num_requests += 1
        sins = self._num_requests % EVERY == 0
        match self.sin if sins else "":
            case "breaks":
                raise httpx.ReadError("the connection broke")
            case "hangs":
                await asyncio.sleep(3600)
            case "fails":
                return _error(500, "internal")
            case "sends a page":
                return httpx.Response(502, text="<html>Bad Gateway</html>")
        return self._obey(request.headers.get(SESSION, ""), body, sins=sins)

    def _obey(self, session_id: str, body: dict[str, Any], *, sins: bool) -> httpx.Response:
        kind = body["type"]
        if kind in ("open_session", "generate"):
            images = self._named(body)
            new = _Session(body.get("system"), images, images, images)
            return _reply(self._opened(new) if kind == "open_session" else _answer(new, body, []))
        session = self._sessions.get(session_id)
        if session is None:
            return _error(410, "session_closed")
        if kind == "prompt" and body["stream"]:
            return httpx.Response(200, content=self._stream(session, body, sins=sins))
        commands = {
            "prompt": lambda: self._record(session, body, sins=sins),
            "cancel_prompt": lambda: self._cancel(session),
            "describe_session": lambda: _described(session),
            "fork_session": lambda: self._fork(session),
            "rewind_session": lambda: _rewind(session, body["turns"]),
            "close_session": lambda: self._close(session_id),
        }
        return _reply(commands[kind]())

    def _named(self, body: dict[str, Any]) -> list[str]:
        """Digests of a request's pictures."""
        return [self._digests[each["data"]] for each in body["images"]]

    def _opened(self, session: _Session) -> dict[str, Any]:
        session_id = f"s{self._num_requests}"
        self._sessions[session_id] = session
        return {"session_id": session_id}

    def _fork(self, session: _Session) -> dict[str, Any]:
        turns = session.turns[:-1] if self.sin == "forks too little" else session.turns
        copies = session.opening, session.images, session.pending, list(turns)
        return self._opened(_Session(session.system, *copies))

    def _cancel(self, session: _Session) -> dict[str, Any]:
        session.cancelled = True
        return {"cancelled": True}

    def _close(self, session_id: str) -> dict[str, Any]:
        if self.sin != "keeps what is closed":
            del self._sessions[session_id]
        return {"closed": True}

    def _record(self, session: _Session, body: dict[str, Any], *, sins: bool) -> dict[str, Any]:
        """Answer and, if it does not sin, put that on record once."""
        images = self._named(body)
        answer = _answer(session, body, images)
        if sins and self.sin == "answers wrongly":
            answer["text"] += "?"
        if sins and self.sin == "forgets a turn":
            return answer
        shown = [*session.pending, *images]
        turn = {"prompt": body["prompt"], "images": shown, "answer": answer["text"]}
        session.turns.append({**turn, "finish_reason": "stop"})
        session.pending = []
        session.images = [*session.images, *images]
        if sins and self.sin == "records twice":
            session.turns.append(session.turns[-1])
        return answer

    async def _stream(
        self, session: _Session, body: dict[str, Any], *, sins: bool
    ) -> AsyncIterator[bytes]:
        text = _answer(session, body, self._named(body))["text"]
        session.cancelled = False
        yield _event("token", {"text": text[:5]})
        await asyncio.sleep(0.001)
        if session.cancelled:
            if self.sin == "records what was cancelled":
                self._record(session, body, sins=False)
            yield _event("done", {"text": text[:5], "finish_reason": "cancelled"})
            return
        swallowed = sins and self.sin == "swallows a piece"
        yield _event("token", {"text": text[6:] if swallowed else text[5:]})
        yield _event("done", self._record(session, body, sins=sins))


def _answer(session: _Session, body: dict[str, Any], images: list[str]) -> dict[str, Any]:
    told = [turn["answer"] for turn in session.turns]
    said = json.dumps([body["prompt"], session.images + images, told])
    return {"text": hashlib.sha256(said.encode()).hexdigest(), "finish_reason": "stop"}


def _described(session: _Session) -> dict[str, Any]:
    images = [{"sha256": digest} for digest in session.images]
    return {"turns": session.turns, "images": images, "system": session.system}


def _rewind(session: _Session, num_turns: int) -> dict[str, Any]:
    """First turns have the opening's pictures; those stay."""
    del session.turns[-num_turns:]
    shown = [digest for turn in session.turns for digest in turn["images"]]
    session.images = shown or list(session.opening)
    session.pending = [] if session.turns else list(session.opening)
    return {"turns": len(session.turns)}


def _reply(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=body)


def _error(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": ""}})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
