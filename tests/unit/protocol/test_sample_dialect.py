"""A client written for AWS's LLaVA sample runs unchanged."""

from __future__ import annotations

from tests.support.door import ask, code_of, in_session, json_of, request
from tests.support.stub_service import SESSION, StubService
from vlm_sessions.protocol.schema import OpenSession, Prompt


async def test_the_sample_client_opens_asks_twice_and_closes() -> None:
    service = StubService()

    opened = await ask(
        service,
        request({"type": "start_session", "path": "http://x/a.png"}, session="NEW_SESSION"),
    )
    session_id = json_of(opened)["session_id"]
    answers = [
        await ask(
            service,
            request(
                {"type": "send_text_prompt", "session_id": session_id, "prompt_text": text},
                session=session_id,
            ),
        )
        for text in ("describe the picture", "is there a mountain?")
    ]
    closed = await ask(
        service, request({"type": "close_session", "session_id": session_id}, session=session_id)
    )

    assert json_of(opened) == {"session_id": SESSION}
    assert [json_of(reply) for reply in answers] == [{"response_text": "a red circle"}] * 2
    assert json_of(closed) == {"success": True}
    assert [asked.command for asked in service.asked] == [
        OpenSession(images=("http://x/a.png",)),
        Prompt(prompt="describe the picture"),
        Prompt(prompt="is there a mountain?"),
        "close_session",
    ]


async def test_a_reply_is_one_line_as_the_sample_client_reads_it() -> None:
    reply = await ask(
        StubService(), in_session({"type": "send_text_prompt", "prompt_text": "a\nb"})
    )

    assert isinstance(reply.body, bytes)
    assert b"\n" not in reply.body


async def test_fields_that_the_sample_serializer_writes_as_null_count_as_absent() -> None:
    reply = await ask(
        StubService(), request({"type": "start_session", "path": "http://x/a", "session_id": None})
    )

    assert reply.status == 200


async def test_an_id_in_the_body_alone_is_refused_with_the_header_to_send() -> None:
    reply = await ask(
        StubService(),
        request({"type": "send_text_prompt", "session_id": SESSION, "prompt_text": "x"}),
    )

    assert reply.status == 400
    assert "X-Amzn-SageMaker-Session-Id" in json_of(reply)["error"]["message"]


async def test_ids_that_differ_are_refused() -> None:
    reply = await ask(StubService(), in_session({"type": "close_session", "session_id": "another"}))

    assert (reply.status, code_of(reply)) == (400, "session_id_mismatch")


async def test_fields_are_checked_in_the_sample_words() -> None:
    missing = await ask(StubService(), in_session({"type": "send_text_prompt", "prompt": "x"}))
    wrong = await ask(StubService(), request({"type": "start_session", "path": 3}))

    assert "send_text_prompt.prompt_text: is required" in json_of(missing)["error"]["message"]
    assert json_of(wrong)["error"]["message"] == "start_session.path: must be a string"
