"""The whole stack with keys: they get through it, into no log of it, and keep clients apart."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.keys import add_client, bearing
from tests.torchserve.server import Server, serving

PICTURE = Path(__file__).parents[2] / "demo" / "pictures" / "shapes.png"
DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
SESSION = "x-amzn-sagemaker-session-id"
WRONG = "vlm-wrong-" + "w" * 33
SIGNATURE = "5167ab1e" * 8


class Client:
    """One who has a key."""

    def __init__(self, server: Server, key: str) -> None:
        self.key = key
        self._url = server.url + "/invocations"

    def post(self, body: dict[str, Any], session: str | None = None) -> httpx.Response:
        headers = bearing(self.key) | ({SESSION: session} if session else {})
        return httpx.post(self._url, json=body, headers=headers, timeout=60)

    def open(self) -> str:
        headers = bearing(self.key) | {"content-type": "image/png"}
        reply = httpx.post(self._url, content=PICTURE.read_bytes(), headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        session: str = reply.json()["session_id"]
        return session

    def ask(self, session: str, prompt: str = "What is in the top left?") -> dict[str, Any]:
        body = {"type": "prompt", "prompt": prompt, "max_new_tokens": 4}
        reply = self.post(body, session)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def describe(self, session: str) -> httpx.Response:
        return self.post({"type": "describe_session"}, session)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def keys(key_file: Path) -> dict[str, str]:
    return {name: add_client(key_file, name) for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def server(
    store: Path, keys: dict[str, str], key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """It logs all that it ever does."""
    state = tmp_path_factory.mktemp("state")
    with serving(
        store, state, threads="1", log_level="debug", api_keys_file=str(key_file)
    ) as server:
        yield server


@pytest.fixture
def alice(server: Server, keys: dict[str, str]) -> Client:
    return Client(server, keys["alice"])


@pytest.fixture
def bob(server: Server, keys: dict[str, str]) -> Client:
    return Client(server, keys["bob"])


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions", "/v1/models", "/metrics"])
def test_the_edge_lets_nobody_pass_without_a_key(server: Server, path: str) -> None:
    method = "GET" if path in ("/v1/models", "/metrics") else "POST"
    for headers in ({}, bearing(WRONG), {"x-api-key": WRONG}):
        reply = httpx.request(method, server.url + path, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"


def test_ping_answers_without_a_key(server: Server) -> None:
    assert httpx.get(server.url + "/ping").status_code == 200


def test_a_key_gets_through_the_stack_in_either_header(server: Server, alice: Client) -> None:
    for headers in (bearing(alice.key), {"X-Api-Key": alice.key}):
        assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200
        assert "vlm_open_sessions" in httpx.get(server.url + "/metrics", headers=headers).text


def test_openais_client_sends_its_key_and_is_told_when_it_is_none(
    server: Server, alice: Client
) -> None:
    def models(key: str) -> list[str]:
        with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as client:
            return [model.id for model in client.models.list()]

    assert models(alice.key) == ["vlm-sessions/shapes"]
    with pytest.raises(openai.AuthenticationError) as refused:
        models(WRONG)
    assert refused.value.code == "unauthorized"


def test_what_one_client_has_shown_and_asked_is_cached_for_itself_and_for_nobody_else(
    server: Server, alice: Client, bob: Client
) -> None:
    def generate(client: Client) -> tuple[int, int, int]:
        """Tokens of the prompt, those that were cached, images that the vision tower saw."""
        before = num_encoded(server, client)
        body = {
            "type": "generate",
            "prompt": "What is in the top left?",
            "images": [DATA_URL],
            "max_new_tokens": 4,
        }
        usage = client.post(body).json()["usage"]
        num_seen = num_encoded(server, client) - before
        return usage["prompt_tokens"], usage["cached_tokens"], num_seen

    num_tokens, *first = generate(alice)
    assert first == [0, 1]
    assert generate(alice) == (num_tokens, num_tokens - 1, 0)
    assert generate(bob) == (num_tokens, 0, 1)
    assert generate(bob) == (num_tokens, num_tokens - 1, 0)


def test_anothers_session_is_not_there(alice: Client, bob: Client) -> None:
    session = alice.open()
    alice.ask(session)

    def told(client: Client) -> int:
        return client.describe(session).status_code

    assert (told(alice), told(bob)) == (200, 404)
    assert bob.post({"type": "close_session"}, session).status_code == 404
    assert alice.post({"type": "close_session"}, session).status_code == 200
    assert (told(alice), told(bob)) == (410, 404)


def test_a_key_that_is_added_counts_without_a_restart(server: Server, key_file: Path) -> None:
    carol = Client(server, add_client(key_file, "carol"))
    deadline = time.monotonic() + 10
    while carol.post({"type": "open_session"}).status_code == 401:
        assert time.monotonic() < deadline, "the file is never read again"
        time.sleep(0.1)


def test_no_log_and_no_process_knows_a_key_whatever_goes_wrong(
    server: Server, alice: Client
) -> None:
    session = alice.open()
    headers = bearing(alice.key)
    url = server.url + "/invocations"
    for body in (b"{", b'{"type":"dance"}', b"\xff" * 100, b'{"type":"prompt","prompt":5}'):
        assert httpx.post(url, content=body, headers=headers).status_code == 400
    assert httpx.post(url, content=b"x", headers=headers | {SESSION: "no id"}).status_code == 400
    assert httpx.get(server.url + "/models", headers=headers).status_code == 404
    assert httpx.get(server.url + "/v1/none", headers=headers).status_code == 404
    assert httpx.put(url, headers=headers).status_code == 405
    too_long = headers | {"x-filler": "a" * 7000}
    assert httpx.post(url, headers=too_long).status_code == 431
    assert httpx.post(url, headers=bearing(WRONG)).status_code == 401
    for host in ("127.0.0.1:9", "nobody.invalid"):
        picture = f"http://{host}/a.png?X-Amz-Signature={SIGNATURE}"
        assert alice.post({"type": "open_session", "images": [picture]}).status_code == 422
    endless = {"type": "prompt", "prompt": "Talk.", "stream": True, "ignore_eos": True}
    named = headers | {SESSION: session}
    with httpx.stream("POST", url, json=endless | {"max_new_tokens": 3000}, headers=named) as reply:
        assert reply.status_code == 200
        next(reply.iter_lines())
    server.wait_for_line('"finish_reason": "cancelled"', 20)
    assert alice.ask(session)["text"]

    told = ["".join(server.lines)]
    told += [path.read_text(errors="replace") for path in server.state_dir.glob("*.*")]
    for process in server.descendants():
        told += [" ".join(process.cmdline()), str(process.environ())]
    assert any(f'"client": "{name}"' in told[0] for name in ("alice", "bob"))
    for secret in (alice.key, WRONG, SIGNATURE):
        assert [text[:200] for text in told if secret in text] == []


def num_encoded(server: Server, client: Client) -> int:
    """Images that the vision tower has seen, of whomever."""
    told = httpx.get(server.url + "/metrics", headers=bearing(client.key)).text
    (line,) = re.findall(r"^vlm_engine_images_encoded_total (\S+)$", told, re.MULTILINE)
    return int(float(line))
