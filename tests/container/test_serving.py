"""What the container answers: SageMaker's contract, and each kind of client that there is."""

from __future__ import annotations

import base64
import re

import httpx
import pytest

from tests.container.container import Container
from tests.container.leaving import PROMPT_SECONDS, leave_and_ask_again
from tests.container.talk import ANSWER, PICTURE, QUESTION, SESSION, Chat, open_session, post
from vlm_sessions.client import Client

_EXPIRES = r"; Expires=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_ping_is_200_once_a_prompt_would_be_answered(service: Container) -> None:
    ping = httpx.get(service.url + "/ping", timeout=5)
    assert ping.status_code == 200
    assert ping.json()["status"] == "Healthy"
    assert ping.elapsed.total_seconds() < 2, "SageMaker waits no longer"


def test_an_opened_session_is_announced_as_sagemaker_wants_it(service: Container) -> None:
    opened = open_session(service.url)
    identity = opened.json()["session_id"]
    for name in (SESSION, "X-Amzn-SageMaker-New-Session-Id"):
        assert re.fullmatch(re.escape(identity) + _EXPIRES, opened.headers[name])
    closed = post(service.url, {"type": "close_session"}, identity)
    assert closed.headers["X-Amzn-SageMaker-Closed-Session-Id"] == identity
    gone = post(service.url, {"type": "describe_session"}, identity)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "session_closed")


def test_a_session_remembers_its_picture_and_its_conversation(service: Container) -> None:
    chat = Chat(service.url)
    assert chat.ask(QUESTION) == ANSWER
    assert chat.ask("What colour is it?") == "red"
    assert chat.prompts() == [QUESTION, "What colour is it?"]


def test_our_client_streams_an_answer(service: Container) -> None:
    with Client(service.url).open(str(PICTURE)) as chat:
        assert "".join(chat.stream(QUESTION)) == ANSWER


def test_a_client_that_leaves_frees_its_session_for_the_next_prompt_at_once(
    service: Container,
) -> None:
    took = leave_and_ask_again(service.url, service.connect, [service.url])

    assert max(took) < PROMPT_SECONDS
    assert service.logs().count('"finish_reason": "cancelled"') == len(took)


def test_aws_llava_samples_payloads_are_answered(service: Container) -> None:
    # Its picture comes by URL; with no network there is only what the container serves itself.
    web = ("python3", "-m", "http.server", "9123", "--bind", "127.0.0.1", "--directory")
    service.engine.run("exec", "--detach", service.identity, *web, "/pictures")
    listening = "import socket; socket.create_connection(('127.0.0.1', 9123))"
    service.wait(
        lambda: service.execute("python3", "-c", listening, check=False).returncode == 0, 30
    )
    url = "http://127.0.0.1:9123/shapes.png"
    opened = post(service.url, {"type": "start_session", "path": url}, "NEW_SESSION")
    session = opened.json()["session_id"]
    prompt = {"type": "send_text_prompt", "session_id": session, "prompt_text": QUESTION}
    assert post(service.url, prompt, session).json()["response_text"] == ANSWER
    close = {"type": "close_session", "session_id": session}
    assert post(service.url, close, session).json() == {"success": True}
    service.find("http.server 9123").terminate()


def test_openais_path_answers_without_a_session(service: Container) -> None:
    picture = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": QUESTION},
    ]
    reply = httpx.post(
        service.url + "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": content}], "max_tokens": 16},
        timeout=60,
    )
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER


def test_metrics_are_prometheus_text_on_the_same_port(service: Container) -> None:
    metrics = httpx.get(service.url + "/metrics", timeout=30)
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "\nvlm_" in metrics.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/models", 404, "not_found"), ("DELETE", "/ping", 405, "method_not_allowed")],
)
def test_what_there_is_not_is_refused_in_json(
    service: Container, method: str, path: str, status: int, code: str
) -> None:
    reply = httpx.request(method, service.url + path, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_each_request_is_a_line_of_the_containers_log_and_no_question_is_in_it(
    service: Container,
) -> None:
    chat = Chat(service.url)
    chat.ask("Is there a zebra?")
    line = re.compile(rf'"session_id": "{chat.id}".*"operation": "prompt"')
    service.wait(lambda: line.search(service.logs()) is not None, 10)
    assert "zebra" not in service.logs()
