"""Any request, over HTTP, to the whole service: what its document says, and never a 5xx.

Several are sent at once, in no session, in one that is open, in one that never was.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from bench.fuzz.described import Described
from bench.fuzz.dice import Dice
from bench.fuzz.running import SESSION, RunningService
from bench.fuzz.target import Target
from bench.fuzz.targets.bodies import json_body
from bench.fuzz.targets.dialects import json_bytes, needs_session
from bench.fuzz.targets.images import damaged_image
from vlm_sessions.media.decode import CONTENT_TYPES

NUM_AT_ONCE = 8
BATCH = 64
MAX_GROWTH_MIB = 512.0
"""Of all processes. Most of it is Java's heap, which is emptied when it is full and not sooner."""
_POSTS = ("/invocations", "/v1/chat/completions")
_GETS = ("/ping", "/metrics", "/v1/models", "/openapi.json")
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    headers: dict[str, bytes]
    body: bytes
    in_session: bool
    """Whether the header names a session that is open."""


@dataclass(frozen=True, slots=True)
class Exchange:
    asked: Asked
    reply: httpx.Response


def _make(dice: Dice) -> Asked:
    if dice.one_in(20):
        path = dice.choice((*_POSTS, *_GETS, "/", "/v1/", "/models", "/predictions/llava"))
        return Asked(dice.choice(_METHODS), path, {}, b"", False)
    if dice.one_in(20):
        return Asked("GET", dice.choice(_GETS), {}, b"", False)
    headers = {"content-type": b"application/json"}
    if dice.one_in(8):
        headers[SESSION] = _sendable(dice.text(40))
    if dice.one_in(10):
        headers["accept"] = b"application/vnd.amazon.eventstream"
    if dice.one_in(4):
        headers["content-type"] = dice.choice(list(CONTENT_TYPES)).encode()
        return Asked("POST", "/invocations", headers, damaged_image(dice), False)
    body = json_body(dice)
    in_session = SESSION not in headers and needs_session(body) != dice.one_in(8)
    is_chat = isinstance(body, dict) and "messages" in body
    path = "/v1/chat/completions" if dice.one_in(2 if is_chat else 12) else "/invocations"
    return Asked("POST", path, headers, json_bytes(dice, body), in_session)


def _sendable(text: str) -> bytes:
    """What a client's own HTTP library lets through: no control characters, no space around it."""
    kept = bytes(byte for byte in text.encode(errors="replace") if byte >= 32 and byte != 127)
    return kept.strip()


class _Feeding:
    def __init__(self, url: str) -> None:
        self._service = RunningService(url)
        self._described = Described(self._service.document())

    def target(self) -> Target[Exchange]:
        return Target(
            self._feed,
            self._check,
            processes=self._service.processes,
            finish=self._service.finish,
            max_growth_mib=MAX_GROWTH_MIB,
        )

    def _feed(self, seed: int, numbers: range, check: Callable[[Exchange], None]) -> None:
        dice = Dice()
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            for first in range(0, len(numbers), BATCH):
                asked = []
                for number in numbers[first : first + BATCH]:
                    dice.seed(f"{seed}/{number}")
                    asked.append(_make(dice))
                for exchange in list(pool.map(self._send, asked)):
                    check(exchange)

    def _send(self, asked: Asked) -> Exchange:
        headers = dict(asked.headers)
        if asked.in_session:
            headers[SESSION] = self._service.session_id().encode()
        sent = [(name.encode(), value) for name, value in headers.items()]
        reply = self._service.http.request(
            asked.method, asked.path, content=asked.body, headers=sent
        )
        self._service.heard(reply.status_code, reply.headers)
        return Exchange(asked, reply)

    def _check(self, exchange: Exchange) -> str:
        asked, reply = exchange.asked, exchange.reply
        assert reply.status_code < 500, (reply.status_code, reply.text)
        assert reply.headers["x-request-id"]
        method = self._described.methods.get(asked.path)
        if method == asked.method:
            self._described.check_reply(asked.path, reply.status_code, reply.headers, reply.content)
        else:
            assert reply.status_code in (404, 405), reply.text
        return str(reply.status_code)


def service_target(url: str) -> Target[Exchange]:
    """Of the service at ``url``, on this machine."""
    return _Feeding(url).target()
