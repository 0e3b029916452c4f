"""The words of AWS's guide, DJL/LMI and vLLM's containers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.door import ask, code_of, in_session, json_of, request
from tests.support.stub_service import SESSION, StubService
from vlm_sessions.protocol.schema import Chat, OpenSession

MESSAGES = [{"role": "user", "content": "What is this?"}]


async def test_new_session_opens_one_without_images() -> None:
    service = StubService()

    reply = await ask(service, request({"requestType": "NEW_SESSION"}, session="NEW_SESSION"))

    assert service.command == OpenSession()
    assert json_of(reply)["session_id"] == SESSION
    assert reply.headers["x-amzn-sagemaker-new-session-id"].startswith(SESSION)


async def test_a_chat_in_between_keeps_to_the_session() -> None:
    service = StubService()

    reply = await ask(service, in_session({"messages": MESSAGES}))

    assert service.asked[-1].session_id == SESSION
    assert isinstance(service.command, Chat)
    assert json_of(reply)["choices"][0]["message"]["content"] == "a red circle"


async def test_a_chat_on_invocations_needs_no_session() -> None:
    service = StubService()

    reply = await ask(service, request({"messages": MESSAGES}))

    assert service.asked[-1].session_id is None
    assert reply.status == 200


async def test_close_ends_the_session_of_the_header() -> None:
    service = StubService()

    reply = await ask(service, in_session({"requestType": "CLOSE"}))

    assert service.asked[-1].command == "close_session"
    assert reply.headers["x-amzn-sagemaker-closed-session-id"] == SESSION


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request({"requestType": "close"}), "unknown_type"),
        (request({"requestType": 1}), "unknown_type"),
        (request({"requestType": "NEW_SESSION", "images": []}), "invalid_field"),
        (request({"requestType": "CLOSE"}), "bad_request"),
        (in_session({"requestType": "NEW_SESSION"}), "bad_request"),
    ],
)
async def test_other_uses_of_request_type_are_refused(asked: Any, code: str) -> None:
    reply = await ask(StubService(), asked)

    assert (reply.status, code_of(reply)) == (400, code)
