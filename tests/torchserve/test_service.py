"""The product itself, over HTTP: sessions survive the death of whatever computes for them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.torchserve.server import RESTART_SECONDS, Server, serving, wait_gone

PICTURE = Path(__file__).parents[2] / "demo" / "pictures" / "shapes.png"
SESSION = "x-amzn-sagemaker-session-id"


class Chat:
    """A session, spoken to in plain HTTP."""

    def __init__(self, server: Server) -> None:
        self._url = server.url + "/invocations"
        headers = {"content-type": "image/png"}
        opened = httpx.post(self._url, content=PICTURE.read_bytes(), headers=headers, timeout=60)
        assert opened.status_code == 200, opened.text
        self._headers = {SESSION: opened.json()["session_id"]}

    def ask(self, prompt: str, num_tokens: int = 8) -> dict[str, Any]:
        reply = self.post(prompt, num_tokens)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def post(self, prompt: str, num_tokens: int = 8) -> httpx.Response:
        """Whatever is answered."""
        body = self._body(prompt, num_tokens)
        return httpx.post(self._url, json=body, headers=self._headers, timeout=60)

    def stream(self, prompt: str, num_tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of an answer: name and data."""
        return self._events({**self._body(prompt, num_tokens), "stream": True})

    def babble(self, num_tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of a long answer, whatever the model has learnt: almost random words."""
        options = {"temperature": 5.0, "seed": 1, "stream": True}
        return self._events({**self._body("Talk.", num_tokens), **options})

    def _events(self, body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        with httpx.stream("POST", self._url, json=body, headers=self._headers, timeout=60) as reply:
            name = ""
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))

    def describe(self) -> dict[str, Any]:
        body = {"type": "describe_session"}
        described = httpx.post(self._url, json=body, headers=self._headers, timeout=60)
        assert described.status_code == 200, described.text
        record: dict[str, Any] = described.json()
        return record

    @staticmethod
    def _body(prompt: str, num_tokens: int) -> dict[str, Any]:
        options = {"max_new_tokens": num_tokens, "ignore_eos": True}
        return {"type": "prompt", "prompt": prompt, **options}


def test_ping_is_200_and_a_session_remembers(server: Server) -> None:
    assert httpx.get(server.url + "/ping").status_code == 200
    chat = Chat(server)
    first = chat.ask("What is in the top left?")
    second = chat.ask("Is there another one?")
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert second["usage"]["cached_tokens"] >= first["usage"]["prompt_tokens"]


def test_streamed_and_single_answers_are_the_same(server: Server) -> None:
    single = Chat(server).ask("What is this?")
    events = list(Chat(server).stream("What is this?", 8))
    assert events[-1][0] == "done"
    assert events[-1][1]["text"] == single["text"]
    assert "".join(data["text"] for name, data in events if name == "token") == single["text"]


def test_what_the_ready_line_says_to_try_works(server: Server) -> None:
    (ready,) = [line for line in server.lines if "Ready at" in line]
    command = ready.partition("try: ")[2]
    with os.popen(command.replace("curl ", "curl -s ", 1)) as curl:
        seen = json.loads(curl.read())["text"]
    assert "red circle" in seen
    assert "blue square" in seen


def test_the_workers_log_lines_reach_the_terminal(server: Server) -> None:
    Chat(server).ask("What is this?")
    line = server.wait_for_line('"operation": "prompt"', 5)
    assert json.loads(line)["status"] == 200


def test_no_log_holds_what_was_asked_not_even_at_debug_level(server: Server) -> None:
    chat = Chat(server)
    chat.ask("Is there a zebra?")
    broken = b'{"type": "prompt", "prompt": "zebra",,}'
    assert httpx.post(chat._url, content=broken, headers=chat._headers).status_code == 400
    server.wait_for_line('"status": 400', 5)
    logs = [*server.state_dir.glob("*.log"), *server.state_dir.glob("*.out")]
    assert len(logs) == 3
    for text in ("".join(server.lines), *(log.read_text() for log in logs)):
        assert "zebra" not in text


def test_a_prompt_whose_client_has_left_is_cancelled_and_leaves_no_trace(server: Server) -> None:
    chat = Chat(server)
    before = chat.describe()
    stream = chat.babble(3000)
    assert next(stream)[0] == "token"
    stream.close()  # type: ignore[attr-defined]
    server.wait_for_line('"finish_reason": "cancelled"', 10)
    after = chat.describe()
    assert after["turns"] == before["turns"] == []


def test_killing_the_engine_ends_the_running_stream_with_an_error_and_nothing_else(
    server: Server,
) -> None:
    busy, other = Chat(server), Chat(server)
    remembered = other.ask("What is this?")
    events = busy.babble(3000)
    assert next(events)[0] == "token"
    server.find("vlm_sessions.build").kill()
    begun = time.monotonic()
    name, data = list(events)[-1]
    assert time.monotonic() - begun < 3
    assert (name, data["error"]["code"]) == ("error", "engine_lost")
    assert httpx.get(server.url + "/ping").status_code == 503
    server.wait_serving(RESTART_SECONDS)
    follow_up = other.ask("Is there another one?")
    assert follow_up["usage"]["prompt_tokens"] > remembered["usage"]["prompt_tokens"]
    assert busy.ask("What is this?")["text"] == remembered["text"]


def test_killing_the_worker_loses_no_session_and_all_serves_again_within_30_s(
    server: Server,
) -> None:
    chat = Chat(server)
    chat.ask("What is in the top left?")
    before = chat.describe()
    server.worker().kill()
    server.wait_for_line("has died", 5)
    server.wait_serving(RESTART_SECONDS)
    assert chat.describe()["turns"] == before["turns"]
    chat.ask("Is there another one?")


@contextlib.contextmanager
def full_disk(server: Server) -> Iterator[None]:
    """The worker, which writes the journal, can write to no file."""
    worker = server.worker()
    soft, hard = worker.rlimit(psutil.RLIMIT_FSIZE)
    worker.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        worker.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_with_507_loses_nothing_and_is_over_once_there_is_room(
    server: Server,
) -> None:
    chat = Chat(server)
    chat.ask("What is in the top left?")
    before = chat.describe()
    with full_disk(server):
        headers = {"content-type": "image/png"}
        opened = httpx.post(chat._url, content=PICTURE.read_bytes(), headers=headers, timeout=60)
        for refused in (opened, chat.post("What colour is it?")):
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                507,
                "insufficient_storage",
            )
        assert "VLM_STATE_DIR" in opened.json()["error"]["message"]
        assert chat.describe()["turns"] == before["turns"]
        assert httpx.get(server.url + "/ping").status_code == 200, "a restart would not help"
    assert chat.ask("What colour is it?")["finish_reason"]
    turns = chat.describe()["turns"]
    assert turns[:-1] == before["turns"]
    assert turns[-1]["prompt"] == "What colour is it?"
    Chat(server).ask("What is this?")


def test_sigterm_leaves_nothing_behind_and_a_restart_takes_the_sessions_up(
    store: Path, tmp_path: Path
) -> None:
    with serving(store, tmp_path, threads="1") as server:
        chat = Chat(server)
        chat.ask("What is in the top left?")
        turns = chat.describe()["turns"]
        session = chat._headers
        processes = server.descendants()
        assert len(processes) == 4
        assert server.stop() == 0
        assert not wait_gone(processes)
    with serving(store, tmp_path, threads="1") as server:
        body = {"type": "describe_session"}
        described = httpx.post(server.url + "/invocations", json=body, headers=session)
        assert described.json()["turns"] == turns


def test_a_model_that_cannot_be_loaded_is_named_and_ends_the_start(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["OtherModel"]}')
    with (
        pytest.raises(AssertionError, match=r"cannot start.*is a OtherModel; supported are"),
        serving(store, tmp_path / "state", model=str(tmp_path)),
    ):
        pytest.fail("it started")
