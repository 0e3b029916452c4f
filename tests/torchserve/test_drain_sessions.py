"""SIGTERM under load, seen by the clients of the product itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.torchserve.server import Server, serving
from tests.torchserve.test_drain import SLACK_SECONDS, terminate, wait_until
from tests.torchserve.test_service import PICTURE, Chat
from vlm_sessions.sessions.journal import DATABASE_NAME


def talk(chat: Chat, num_tokens: int) -> list[tuple[str, dict[str, Any]]]:
    return list(chat.babble(num_tokens))


def num_prompts(server: Server) -> int:
    """Running or waiting."""
    return int(httpx.get(server.url + "/ping").json()["prompts"])


def num_recorded_turns(server: Server) -> int:
    with sqlite3.connect(server.state_dir / DATABASE_NAME) as journal:
        return int(journal.execute("SELECT count(*) FROM turns").fetchone()[0])


def assert_refused(reply: httpx.Response) -> None:
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert int(reply.headers["retry-after"]) >= 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_running_and_queued_answers_finish_and_are_recorded(
    store: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with serving(store, tmp_path, threads="1") as server:
        chats = [Chat(server) for _ in range(4)]
        pending = [pool.submit(talk, chat, 800) for chat in chats * 2]
        wait_until(lambda: num_prompts(server) == 8)
        begun = terminate(server)
        said = server.wait_for_line("Draining: ", 5)
        assert int(said.split()[1]) >= 8, "and a question of the watchdog, perhaps"
        assert_refused(httpx.get(server.url + "/ping"))
        picture, kind = PICTURE.read_bytes(), {"content-type": "image/png"}
        assert_refused(httpx.post(server.url + "/invocations", content=picture, headers=kind))
        assert_refused(chats[0].post("What is this?"))
        assert chats[0].describe()["session_id"], "what computes nothing goes on"
        endings = [future.result(60)[-1] for future in pending]
        assert server.process.wait(SLACK_SECONDS) == 0
        assert time.monotonic() - begun < 30
    assert [name for name, _ in endings] == ["done"] * 8
    assert not list(tmp_path.glob("*-wal")), "the journal was closed"
    assert num_recorded_turns(server) == 8


@pytest.mark.parametrize("way", ["the time is over", "a second signal"])
def test_what_does_not_finish_ends_in_an_error_and_leaves_no_trace(
    store: Path, tmp_path: Path, pool: ThreadPoolExecutor, way: str
) -> None:
    drain_seconds = "1" if way == "the time is over" else "25"
    with serving(store, tmp_path, threads="1", drain_seconds=drain_seconds) as server:
        streamed, single = Chat(server), Chat(server)
        events = iter(streamed.babble(3000))
        next(events)  # before its first token it would be refused with a status of its own
        stream = pool.submit(list, events)
        reply = pool.submit(single.post, "Talk.", num_tokens=3000)
        wait_until(lambda: num_prompts(server) == 2)
        begun = terminate(server)
        if way == "a second signal":
            server.wait_for_line("Draining", 5)
            terminate(server)
        name, data = stream.result(60)[-1]
        assert (name, data["error"]["code"]) == ("error", "draining")
        assert_refused(reply.result(60))
        assert server.process.wait(SLACK_SECONDS) == 0
        assert time.monotonic() - begun < 20
    assert num_recorded_turns(server) == 0
