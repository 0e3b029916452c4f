"""A client that goes away in the middle of an answer, and then the session is asked at once."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Sequence

import httpx

from tests.container.talk import ANSWER, QUESTION, SESSION, Chat

NUM_TIMES = 5
NUM_TOKENS = 3500
"""Of the answer that nobody waits for: it takes a while, so most of it is never computed."""
PROMPT_SECONDS = 10.0
"""Generous: CI machines are slow. The product promises a free turn within a second."""


def leave_and_ask_again(
    url: str, connect: Callable[[], socket.socket], replicas: Sequence[str]
) -> list[float]:
    """Have a session talk, leave once the first words have come, ask it something else; repeatedly.

    Args:
        url: of the service or router.
        connect: a new connection to it; what is closed of it is closed at once.
        replicas: URLs of all services that may have the session.

    Returns:
        For each time the seconds from leaving to the whole next answer.

    Raises:
        AssertionError: the session remembers what it was left with, or the engine computed on.
    """
    chat = Chat(url)
    took = []
    for number in range(NUM_TIMES):
        generated = _total("vlm_engine_generated_tokens_total", replicas)
        _leave_in_the_middle(chat, connect())
        begun = time.monotonic()
        assert chat.ask(QUESTION) == ANSWER
        took.append(time.monotonic() - begun)
        assert chat.prompts() == [QUESTION] * (number + 1)
        assert _total("vlm_engine_generated_tokens_total", replicas) - generated < NUM_TOKENS
    assert _total("vlm_engine_running_turns", replicas) == 0
    return took


def _leave_in_the_middle(chat: Chat, connected: socket.socket) -> None:
    body = {"type": "prompt", "prompt": "Talk.", "max_new_tokens": NUM_TOKENS, "stream": True}
    body |= {"ignore_eos": True, "temperature": 5.0, "seed": 1}
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = connected
    headers = {SESSION: chat.id, "Content-Type": "application/json"}
    connection.request("POST", "/invocations", json.dumps(body), headers)
    reply = connection.getresponse()
    assert (reply.status, reply.readline()) == (200, b"event: token\n")
    connection.close()


def _total(name: str, replicas: Sequence[str]) -> float:
    """The sum of a metric without labels."""
    total = 0.0
    for url in replicas:
        text = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text
        (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
        total += float(value)
    return total
