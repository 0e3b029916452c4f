"""Sessions in plain HTTP, as a SageMaker endpoint's clients speak to the container."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

SESSION = "X-Amzn-SageMaker-Session-Id"
PICTURE = Path(__file__).parents[2] / "demo" / "pictures" / "shapes.png"
QUESTION = "What is in the top left?"
ANSWER = "a red circle"
_SECONDS = 60.0

Event = tuple[str, dict[str, Any]]
"""Name and data of a server-sent event."""


def post(url: str, body: dict[str, Any], session: str = "") -> httpx.Response:
    headers = {SESSION: session} if session else {}
    return httpx.post(url + "/invocations", json=body, headers=headers, timeout=_SECONDS)


def open_session(url: str) -> httpx.Response:
    """With the picture as the body."""
    return httpx.post(
        url + "/invocations",
        content=PICTURE.read_bytes(),
        headers={"Content-Type": "image/png"},
        timeout=_SECONDS,
    )


class Chat:
    """An open session.

    Raises:
        AssertionError: an answer is not 200.
    """

    def __init__(self, url: str) -> None:
        opened = open_session(url)
        assert opened.status_code == 200, opened.text
        self.url = url
        self.id = str(opened.json()["session_id"])

    def ask(self, prompt: str = QUESTION) -> str:
        reply = post(self.url, {"type": "prompt", "prompt": prompt, "max_new_tokens": 16}, self.id)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["text"])

    def prompts(self) -> list[str]:
        """What the session remembers to have been asked."""
        described = post(self.url, {"type": "describe_session"}, self.id)
        assert described.status_code == 200, described.text
        return [turn["prompt"] for turn in described.json()["turns"]]

    def babble(self, num_tokens: int) -> Iterator[Event]:
        """The events of an answer of just so many tokens, whatever the model has to say."""
        body = {"type": "prompt", "prompt": "Talk.", "max_new_tokens": num_tokens, "stream": True}
        body |= {"ignore_eos": True, "temperature": 5.0, "seed": 1}
        headers = {SESSION: self.id}
        with httpx.stream(
            "POST", self.url + "/invocations", json=body, headers=headers, timeout=_SECONDS
        ) as reply:
            assert reply.status_code == 200, reply.read()
            name = ""
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


class Listener:
    """Reads a stream to its end on a thread of its own."""

    def __init__(self, events: Iterator[Event]) -> None:
        self.first = next(events)
        self.last = self.first
        self._events = events
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def finish(self, seconds: float = 60.0) -> Event:
        """The last event, once the stream has ended."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the stream has not ended"
        return self.last

    def _read(self) -> None:
        for event in self._events:
            self.last = event
