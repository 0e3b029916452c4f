"""Paths, methods, sizes, and what is common to all replies."""

from __future__ import annotations

import pytest

from tests.support.door import (
    REQUEST_ID,
    ask,
    code_of,
    in_session,
    json_of,
    make_endpoint,
    request,
)
from tests.support.stub_service import EXPIRES, FORK, SESSION, StubService, refusing
from vlm_sessions.errors import (
    ContextOverflow,
    EngineUnavailable,
    InsufficientStorage,
    QueueFull,
    SessionClosed,
    SessionNotFound,
    TooManySessions,
    VlmError,
)

ANNOUNCED = f"{SESSION}; Expires={EXPIRES}"


async def test_ping_is_healthy_only_while_a_prompt_would_succeed() -> None:
    service = StubService(num_prompts=2)
    endpoint = make_endpoint(service)

    healthy = await endpoint.handle(request(path="/ping", method="GET"))
    service.ready = False
    starting = await endpoint.handle(request(path="/ping", method="GET"))

    assert healthy.status == 200
    assert json_of(healthy) == {"status": "Healthy", "open_sessions": 7, "prompts": 2}
    assert (starting.status, code_of(starting)) == (503, "engine_unavailable")
    assert starting.headers["retry-after"] == "1"


async def test_ping_says_draining_from_the_moment_that_no_more_should_be_sent() -> None:
    service = StubService(draining=True)

    leaving = await ask(service, request(path="/ping", method="GET"))
    asked = await ask(service, request({"type": "generate", "prompt": "What?"}))

    assert (leaving.status, code_of(leaving)) == (503, "draining")
    assert leaving.headers["retry-after"] == "1"
    assert asked.status == 200, "what comes all the same is the service's to refuse"


async def test_an_unknown_path_is_not_found_and_told_what_there_is() -> None:
    reply = await ask(StubService(), request(path="/predictions/llava"))

    assert (reply.status, code_of(reply)) == (404, "not_found")
    assert "/invocations" in json_of(reply)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/invocations", "GET", "POST"),
        ("/v1/chat/completions", "GET", "POST"),
        ("/v1/models", "POST", "GET"),
        ("/ping", "POST", "GET"),
        ("/metrics", "DELETE", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(path: str, method: str, allowed: str) -> None:
    reply = await ask(StubService(), request(path=path, method=method))

    assert (reply.status, code_of(reply)) == (405, "method_not_allowed")
    assert reply.headers["allow"] == allowed


async def test_a_body_over_the_limit_is_refused_unread() -> None:
    service = StubService()

    at_limit = await ask(service, request(b"x" * 2**20, content_type="image/png"))
    over = await ask(service, request(b"x" * (2**20 + 1), content_type="image/png"))

    assert at_limit.status == 200
    assert (over.status, code_of(over)) == (413, "payload_too_large")
    assert len(service.asked) == 1


async def test_errors_of_openai_paths_have_openai_shape_even_before_they_are_read() -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        reply = await ask(StubService(), request(b"{", path=path))

        assert set(json_of(reply)["error"]) == {"message", "type", "param", "code"}


async def test_other_errors_are_a_code_and_a_message() -> None:
    reply = await ask(StubService(), request(b"{"))

    assert set(json_of(reply)) == {"error"}
    assert set(json_of(reply)["error"]) == {"code", "message"}


@pytest.mark.parametrize(
    "error",
    [
        SessionNotFound("Open one."),
        SessionClosed("Open another."),
        ContextOverflow("Too long."),
        QueueFull("Later.", retry_after=3.5),
        TooManySessions("Later."),
        EngineUnavailable("Soon."),
        InsufficientStorage("Full."),
    ],
)
async def test_an_error_of_the_service_keeps_its_status_code_and_message(error: VlmError) -> None:
    reply = await ask(refusing(error), in_session({"type": "prompt", "prompt": "x"}))

    assert reply.status == error.status
    assert json_of(reply) == {"error": {"code": error.code, "message": error.message}}
    assert ("retry-after" in reply.headers) == (error.retry_after is not None)


async def test_a_bug_is_a_500_without_its_inner_life() -> None:
    service = StubService(refusal=KeyError("secret"))

    reply = await ask(service, in_session({"type": "describe_session"}))

    assert (reply.status, code_of(reply)) == (500, "internal")
    assert isinstance(reply.body, bytes)
    assert b"secret" not in reply.body


async def test_every_reply_on_a_session_announces_its_life_in_the_header() -> None:
    opened = await ask(StubService(), request({"type": "open_session"}))
    later = [
        await ask(StubService(), in_session(body))
        for body in (
            {"type": "prompt", "prompt": "x"},
            {"type": "prompt", "prompt": "x", "stream": True},
            {"type": "cancel_prompt"},
            {"type": "describe_session"},
            {"messages": [{"role": "user", "content": "x"}]},
        )
    ]
    closed = await ask(StubService(), in_session({"type": "close_session"}))

    assert opened.headers["x-amzn-sagemaker-session-id"] == ANNOUNCED
    assert opened.headers["x-amzn-sagemaker-new-session-id"] == ANNOUNCED
    for reply in later:
        assert reply.headers["x-amzn-sagemaker-session-id"] == ANNOUNCED
        assert "x-amzn-sagemaker-new-session-id" not in reply.headers
    assert closed.headers["x-amzn-sagemaker-closed-session-id"] == SESSION
    assert "x-amzn-sagemaker-session-id" not in closed.headers


async def test_a_fork_announces_itself_and_a_rewind_its_session() -> None:
    forked = await ask(StubService(), in_session({"type": "fork_session"}))
    rewound = await ask(StubService(), in_session({"type": "rewind_session"}))

    announced = f"{FORK.session_id}; Expires={EXPIRES}"
    assert forked.headers["x-amzn-sagemaker-session-id"] == announced
    assert forked.headers["x-amzn-sagemaker-new-session-id"] == announced
    assert rewound.headers["x-amzn-sagemaker-session-id"] == ANNOUNCED
    assert "x-amzn-sagemaker-new-session-id" not in rewound.headers


async def test_an_answer_outside_a_session_announces_none() -> None:
    for stream in (False, True):
        reply = await ask(
            StubService(), request({"type": "generate", "prompt": "x", "stream": stream})
        )
        assert not [name for name in reply.headers if "session" in name]


async def test_the_request_id_comes_back_and_reaches_the_service() -> None:
    service = StubService()

    answered = await ask(service, in_session({"type": "prompt", "prompt": "x"}))
    refused = await ask(service, request(b"{"))

    assert answered.headers["x-request-id"] == refused.headers["x-request-id"] == REQUEST_ID
    assert service.asked[-1].request_id == REQUEST_ID


async def test_a_request_id_cannot_smuggle_in_a_header() -> None:
    reply = await ask(StubService(), request({"type": "x"}, request_id="a\r\nset-cookie: b"))

    assert reply.headers["x-request-id"] == "aset-cookie: b"


async def test_the_model_served_is_listed() -> None:
    reply = await ask(StubService(), request(path="/v1/models", method="GET"))

    assert json_of(reply)["data"][0]["id"] == "demo"
