"""The service that is fed over HTTP: its one open session, what it must be in the end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import psutil

from bench.fuzz.corpus.picture import encode, picture
from vlm_sessions.client import Client

SESSION = "x-amzn-sagemaker-session-id"
NEW_SESSION = "x-amzn-sagemaker-new-session-id"
CLOSED_SESSION = "x-amzn-sagemaker-closed-session-id"
TIMEOUT_SECONDS = 120.0


class RunningService:
    """May be used by several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False)
        self._opening = threading.Lock()
        self._session_id = ""
        self._picture = encode(picture(), "PNG")
        self._num_open_before = self.http.get("/ping").json()["open_sessions"]

    def document(self) -> dict[str, Any]:
        """What it says of itself."""
        document: dict[str, Any] = self.http.get("/openapi.json").raise_for_status().json()
        return document

    def session_id(self) -> str:
        """Of a session that is open, or was when it was last heard of."""
        with self._opening:
            if not self._session_id:
                reply = self.http.post(
                    "/invocations", content=self._picture, headers={"content-type": "image/png"}
                )
                self._session_id = str(reply.raise_for_status().json()["session_id"])
            return self._session_id

    def heard(self, status: int, headers: Mapping[str, str]) -> None:
        """A reply: what it opened is closed, and what it closed is not used again."""
        announced = {name.lower(): value for name, value in headers.items()}
        if value := announced.get(NEW_SESSION):
            self._close(value.partition(";")[0])
        if announced.get(CLOSED_SESSION) == self._session_id or status in (404, 410):
            self._forget()

    def processes(self) -> Sequence[psutil.Process]:
        """The service's: the parent of who listens on its port, and all below."""
        port = httpx.URL(self.url).port
        (edge,) = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        supervisor = psutil.Process(edge).parent()
        assert supervisor is not None
        return [supervisor, *supervisor.children(recursive=True)]

    def finish(self) -> None:
        """Nothing waits or runs, no session more is open, and a person's question is answered.

        Raises:
            AssertionError: it is not so.
        """
        self._forget()
        with Client(self.url) as client, client.open(self._picture) as session:
            session.ask("What is in the top left?", max_new_tokens=16)
        health = self.http.get("/ping").json()
        left = (health["open_sessions"], health["prompts"])
        assert left == (self._num_open_before, 0), health

    def _forget(self) -> None:
        with self._opening:
            if self._session_id:
                self._close(self._session_id)
            self._session_id = ""

    def _close(self, session_id: str) -> None:
        reply = self.http.post(
            "/invocations", json={"type": "close_session"}, headers={SESSION: session_id}
        )
        assert reply.status_code in (200, 410), reply.text
