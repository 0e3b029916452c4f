"""What clients in the field send, against the product itself: each gets a conversation."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.torchserve.server import Server

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
SESSION = "X-Amzn-SageMaker-Session-Id"
NEW_SESSION = "X-Amzn-SageMaker-New-Session-Id"
CLOSED_SESSION = "X-Amzn-SageMaker-Closed-Session-Id"


@pytest.fixture(scope="module")
def picture_url() -> Iterator[str]:
    """A web server of one's own, which the product was told that it may fetch from."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(PICTURES))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name there)
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/shapes.png"
        web.shutdown()


def data_url() -> str:
    return (
        "data:image/png;base64," + base64.b64encode((PICTURES / "shapes.png").read_bytes()).decode()
    )


def invoke(
    server: Server, body: dict[str, Any], session: str = "", status: int = 200
) -> httpx.Response:
    reply = httpx.post(
        server.url + "/invocations", json=body, headers={SESSION: session}, timeout=60
    )
    assert reply.status_code == status, reply.text
    return reply


def metric(server: Server, name: str) -> float:
    text = httpx.get(server.url + "/metrics", timeout=30).text
    (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(value)


def test_a_client_of_aws_llava_sample_runs_unchanged_and_gets_a_conversation(
    server: Server, picture_url: str
) -> None:
    opened = invoke(server, {"type": "start_session", "path": picture_url}, "NEW_SESSION")
    session = opened.json()["session_id"]
    assert session.startswith("ts-seq-")
    assert opened.headers[SESSION].split(";")[0] == session
    question = {"type": "send_text_prompt", "session_id": session}
    first = invoke(server, {**question, "prompt_text": "What is in the top left?"}, session)
    assert first.json()["response_text"] == "a red circle"
    second = invoke(server, {**question, "prompt_text": "What colour is it?"}, session)
    assert second.json()["response_text"] == "red"
    closed = invoke(server, {"type": "close_session", "session_id": session}, session)
    assert closed.json() == {"success": True}
    assert closed.headers[CLOSED_SESSION] == session


def test_a_client_of_aws_guide_opens_without_a_picture_and_shows_one_later(server: Server) -> None:
    opened = invoke(server, {"requestType": "NEW_SESSION"})
    session, _, expires = opened.headers[NEW_SESSION].partition("; Expires=")
    assert datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) > datetime.now(UTC)
    content = [
        {"type": "image_url", "image_url": {"url": data_url()}},
        {"type": "text", "text": "What is in the top left?"},
    ]
    chat = {"messages": [{"role": "user", "content": content}], "max_tokens": 20}
    first = invoke(server, chat, session).json()
    assert first["choices"][0]["message"]["content"] == "a red circle"
    chat = {"messages": [{"role": "user", "content": "What colour is it?"}], "max_tokens": 20}
    second = invoke(server, chat, session).json()
    assert second["choices"][0]["message"]["content"] == "red"
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert invoke(server, {"requestType": "CLOSE"}, session).headers[CLOSED_SESSION] == session


def test_openais_client_streams_and_continues_a_session_with_the_whole_history(
    server: Server,
) -> None:
    session = invoke(server, {"type": "open_session"}).json()["session_id"]
    client = OpenAI(base_url=server.url + "/v1", api_key="none", default_headers={SESSION: session})
    messages: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url()}},
                {"type": "text", "text": "What is in the top left?"},
            ],
        }
    ]
    chunks = client.chat.completions.create(
        model="any", messages=messages, stream=True, max_tokens=20
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "a red circle"
    messages.append({"role": "assistant", "content": said})
    messages.append({"role": "user", "content": "What colour is it?"})
    reply = client.chat.completions.create(model="any", messages=messages, max_tokens=20)
    assert reply.choices[0].message.content == "red"
    turns = invoke(server, {"type": "describe_session"}, session).json()["turns"]
    assert len(turns) == 2, "the history was recognised, not said again"
    messages[1] = {"role": "assistant", "content": "something else"}
    error = invoke(server, {"messages": messages}, session, status=409).json()["error"]
    assert error["code"] == "conversation_mismatch"


def test_two_sessions_on_one_picture_share_its_features_and_blocks(server: Server) -> None:
    picture = {"type": "open_session", "images": [data_url()], "system": "Share."}
    first = invoke(server, picture).json()["session_id"]
    invoke(server, {"type": "prompt", "prompt": "What is in the top left?"}, first)
    num_encoded = metric(server, "vlm_engine_images_encoded_total")
    second = invoke(server, picture).json()["session_id"]
    prefix = invoke(server, {"type": "describe_session"}, second).json()
    assert prefix["caches"]["kv_tokens"] >= 64, "its picture's KV was there before it spoke"
    assert prefix["caches"]["feature_images"] == 1
    answer = invoke(server, {"type": "prompt", "prompt": "What is at the top?"}, second).json()
    assert answer["usage"]["cached_tokens"] >= 64
    assert metric(server, "vlm_engine_images_encoded_total") == num_encoded


def test_ended_unknown_and_impossible_sessions_are_told_apart(server: Server) -> None:
    session = invoke(server, {"type": "open_session"}).json()["session_id"]
    invoke(server, {"type": "close_session"}, session)
    prompt = {"type": "prompt", "prompt": "What is this?"}
    assert invoke(server, prompt, session, 410).json()["error"]["code"] == "session_closed"
    unknown = "ts-seq-" + "0" * 32
    assert invoke(server, prompt, unknown, 404).json()["error"]["code"] == "session_not_found"
    assert invoke(server, prompt, "a_b", 400).json()["error"]["code"] == "malformed_session_id"
    sample = {"type": "send_text_prompt", "session_id": unknown, "prompt_text": "?"}
    assert invoke(server, sample, session, 400).json()["error"]["code"] == "session_id_mismatch"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.2:8080/ping",
        "http://[::ffff:10.0.0.1]/",
        "http://0x7f.1/",
        "file:///etc/passwd",
    ],
)
def test_pictures_in_private_places_are_not_fetched(server: Server, url: str) -> None:
    # The server was told to allow 127.0.0.1, and nothing else.
    body = {"type": "open_session", "images": [url]}
    reply = httpx.post(server.url + "/invocations", json=body, timeout=60)
    assert reply.status_code in (400, 422)
    assert reply.json()["error"]["code"] in ("image_forbidden", "invalid_field")
