"""Our own dialect, both ways."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.door import ask, code_of, in_session, json_of, request
from tests.support.stub_service import EXPIRES, FORK, SESSION, StubService
from vlm_sessions.protocol.schema import (
    Generate,
    InlineImage,
    OpenSession,
    Prompt,
    RawImage,
    RewindSession,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


async def test_open_session_answers_the_id_its_end_and_the_images() -> None:
    service = StubService()

    reply = await ask(
        service,
        request(
            {
                "type": "open_session",
                "images": ["http://x/a.png", {"data": "iVBO"}],
                "system": "Be brief.",
            }
        ),
    )

    assert service.command == OpenSession(
        images=("http://x/a.png", InlineImage(data="iVBO")), system="Be brief."
    )
    image = {"sha256": "ab" * 32, "width": 640, "height": 480, "tokens": 64}
    assert json_of(reply) == {
        "session_id": SESSION,
        "expires_at": EXPIRES,
        "images": [image, image],
    }


async def test_a_prompt_reaches_the_session_of_the_header_and_comes_back_whole() -> None:
    service = StubService()

    reply = await ask(
        service,
        in_session(
            {
                "type": "prompt",
                "prompt": "What is this?",
                "temperature": 1,
                "top_k": 5,
                "stop": ["."],
                "max_new_tokens": 9,
            }
        ),
    )

    assert service.asked[-1].session_id == SESSION
    assert service.command == Prompt(
        prompt="What is this?", temperature=1.0, top_k=5, stop=(".",), max_new_tokens=9
    )
    assert json_of(reply) == {
        "text": "a red circle",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 80,
            "cached_tokens": 70,
            "completion_tokens": 3,
            "dropped_turns": 0,
        },
        "timing": {"queue_ms": 0.5, "ttft_ms": 12.25, "total_ms": 20.0},
    }


async def test_generate_works_without_a_session() -> None:
    service = StubService()

    reply = await ask(service, request({"type": "generate", "prompt": "Hello", "images": []}))

    assert service.command == Generate(prompt="Hello")
    assert json_of(reply)["text"] == "a red circle"


async def test_cancel_describe_and_close_answer_in_our_words() -> None:
    service = StubService()

    cancelled = await ask(service, in_session({"type": "cancel_prompt"}))
    described = await ask(service, in_session({"type": "describe_session"}))
    closed = await ask(service, in_session({"type": "close_session"}))

    assert [asked.command for asked in service.asked] == ["cancel", "describe", "close_session"]
    assert json_of(cancelled) == {"cancelled": True}
    assert json_of(closed) == {"closed": True}
    record = json_of(described)
    assert record["session_id"] == SESSION
    assert record["expires_at"] == EXPIRES
    assert record["turns"][0]["answer"] == "a red circle"
    assert record["caches"] == {
        "kv_tokens": 80,
        "host_kv_tokens": 16,
        "feature_images": 1,
        "host_feature_images": 0,
        "pixel_images": 0,
    }


async def test_a_fork_is_answered_as_an_opening_and_a_rewind_with_what_is_left() -> None:
    service = StubService()

    forked = await ask(service, in_session({"type": "fork_session"}))
    rewound = await ask(service, in_session({"type": "rewind_session", "turns": 2}))
    by_one = await ask(service, in_session({"type": "rewind_session"}))

    assert [asked.session_id for asked in service.asked] == [SESSION] * 3
    assert [asked.command for asked in service.asked] == [
        "fork",
        RewindSession(turns=2),
        RewindSession(turns=1),
    ]
    assert json_of(forked) == {
        "session_id": FORK.session_id,
        "expires_at": EXPIRES,
        "images": [{"sha256": "ab" * 32, "width": 640, "height": 480, "tokens": 64}],
    }
    assert json_of(rewound) == {"rewound": 2, "turns": 1}
    assert json_of(by_one)["rewound"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"type": "rewind_session", "turns": 0}, "invalid_field"),
        ({"type": "rewind_session", "turns": -1}, "invalid_field"),
        ({"type": "rewind_session", "turns": 2**31}, "invalid_field"),
        ({"type": "rewind_session", "turns": "1"}, "invalid_field"),
        ({"type": "rewind_session", "turns": True}, "invalid_field"),
        ({"type": "fork_session", "turns": 1}, "invalid_field"),
    ],
)
async def test_a_fork_or_rewind_that_is_not_one_is_refused(body: dict[str, Any], code: str) -> None:
    service = StubService()

    reply = await ask(service, in_session(body))
    without = await ask(service, request({"type": body["type"]}))

    assert (reply.status, code_of(reply)) == (400, code)
    assert (without.status, code_of(without)) == (400, "bad_request")
    assert service.asked == []


@pytest.mark.parametrize("session", [None, "", "  ", "NEW_SESSION"])
async def test_an_image_as_the_body_opens_a_session(session: str | None) -> None:
    service = StubService()

    reply = await ask(service, request(PNG, content_type="Image/PNG; x=y", session=session))

    assert reply.status == 200
    assert service.command == OpenSession(images=(RawImage(content=PNG, content_type="image/png"),))


async def test_an_image_as_the_body_inside_a_session_is_refused_with_the_way_to_send_it() -> None:
    service = StubService()

    reply = await ask(service, request(PNG, content_type="image/png", session=SESSION))

    assert reply.status == 400
    assert '"images":[{"data":base64}]' in json_of(reply)["error"]["message"]
    assert service.asked == []


async def test_an_empty_image_body_is_refused() -> None:
    reply = await ask(StubService(), request(b"", content_type="image/png"))

    assert (reply.status, code_of(reply)) == (400, "bad_request")


async def test_a_body_may_repeat_the_header_id() -> None:
    reply = await ask(
        StubService(), in_session({"type": "prompt", "prompt": "x", "session_id": SESSION})
    )

    assert reply.status == 200


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (
            in_session({"type": "prompt", "prompt": "x", "session_id": "other"}),
            "session_id_mismatch",
        ),
        (request({"type": "prompt", "prompt": "x", "session_id": SESSION}), "invalid_field"),
        (in_session({"type": "prompt", "prompt": "x", "session_id": 3}), "invalid_field"),
        (request({"type": "prompt", "prompt": "x"}), "bad_request"),
        (request({"type": "prompt", "prompt": "x"}, session="NEW_SESSION"), "bad_request"),
        (request({"type": "describe_session"}), "bad_request"),
        (request({"type": "close_session"}), "bad_request"),
        (in_session({"type": "open_session"}), "bad_request"),
        (in_session({"type": "generate", "prompt": "x"}), "bad_request"),
        (
            request({"type": "prompt", "prompt": "x"}, session="has_underscore"),
            "malformed_session_id",
        ),
        (request({"type": "prompt", "prompt": "x"}, session="-a"), "malformed_session_id"),
        (request({"type": "prompt", "prompt": "x"}, session="a-"), "malformed_session_id"),
        (request({"type": "prompt", "prompt": "x"}, session="a" * 300), "malformed_session_id"),
        (request({"type": "prompt", "prompt": "x"}, session="ä"), "malformed_session_id"),
        (request({"type": "dance"}), "unknown_type"),
        (request({"type": None}), "unknown_type"),
        (request({"type": ["prompt"]}), "unknown_type"),
        (request({"prompt": "x"}), "unknown_type"),
        (request({}), "unknown_type"),
        (request({"type": "chat", "messages": []}), "unknown_type"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_asked(asked: Any, code: str) -> None:
    service = StubService()

    reply = await ask(service, asked)

    assert (reply.status, code_of(reply)) == (400, code)
    assert service.asked == []


async def test_a_prompt_without_a_session_is_told_both_ways_out() -> None:
    reply = await ask(StubService(), request({"type": "prompt", "prompt": "x"}))

    message = json_of(reply)["error"]["message"]
    assert "X-Amzn-SageMaker-Session-Id" in message
    assert "generate" in message


async def test_a_header_with_its_expiry_is_told_to_leave_it_out() -> None:
    reply = await ask(
        StubService(),
        request({"type": "describe_session"}, session=f"{SESSION}; Expires={EXPIRES}"),
    )

    assert code_of(reply) == "malformed_session_id"
    assert "';'" in json_of(reply)["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "prompt.prompt: is required"),
        ({"prompt": 3}, "prompt.prompt: must be a string"),
        ({"prompt": ""}, "prompt.prompt: must have at least 1 character(s)"),
        # The engine's socket holds 64 bits: a larger number used to end as an internal error.
        ({"prompt": "x", "top_k": 2**64}, "prompt.top_k: must be below 2147483648"),
        (
            {"prompt": "x", "max_new_tokens": 2**31},
            "prompt.max_new_tokens: must be below 2147483648",
        ),
        ({"prompt": "x", "temperature": 9}, "prompt.temperature: must be at most 5"),
        ({"prompt": "x", "temperature": -0.1}, "prompt.temperature: must be at least 0"),
        ({"prompt": "x", "temperature": "hot"}, "prompt.temperature: must be a number"),
        ({"prompt": "x", "temperature": "0.5"}, "prompt.temperature: must be a number"),
        ({"prompt": "x", "temperature": True}, "prompt.temperature: must be a number"),
        ({"prompt": "x", "top_p": 0}, "prompt.top_p: must be above 0"),
        ({"prompt": "x", "top_k": 1.5}, "prompt.top_k: must be a whole number"),
        ({"prompt": "x", "seed": 2**63}, f"prompt.seed: must be below {2**63}"),
        ({"prompt": "x", "max_new_tokens": 0}, "prompt.max_new_tokens: must be at least 1"),
        ({"prompt": "x", "stream": "yes"}, "prompt.stream: must be true or false"),
        ({"prompt": "x", "stop": "."}, "prompt.stop: must be a list"),
        ({"prompt": "x", "stop": [""]}, "prompt.stop[0]: must have at least 1 character(s)"),
        ({"prompt": "x", "stop": ["."] * 9}, "prompt.stop: must have at most 8 items"),
        ({"prompt": "x", "images": "http://x"}, "prompt.images: must be a list"),
        ({"prompt": "x", "sed": 1}, "prompt.sed: is not a known field; did you mean seed?"),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named_with_what_it_must_be(
    fields: dict[str, Any], message: str
) -> None:
    reply = await ask(StubService(), in_session({"type": "prompt", **fields}))

    assert reply.status == 400
    assert json_of(reply)["error"] == {"code": "invalid_field", "message": message}


@pytest.mark.parametrize(
    "image", [3, None, {}, {"data": 1}, {"url": "x"}, {"content": "x", "content_type": "image/png"}]
)
async def test_an_image_that_is_none_of_the_forms_is_named_by_its_place(image: object) -> None:
    reply = await ask(
        StubService(), request({"type": "open_session", "images": ["http://x/a.png", image]})
    )

    assert json_of(reply)["error"] == {
        "code": "invalid_field",
        "message": 'open_session.images[1]: must be a URL, a data URL, base64, or {"data": base64}',
    }


async def test_several_problems_are_told_together_and_many_are_counted() -> None:
    reply = await ask(
        StubService(),
        in_session({"type": "prompt", "a": 1, "b": 2, "top_p": 2, "top_k": -1, "stream": 0}),
    )

    message = json_of(reply)["error"]["message"]
    assert "prompt.prompt: is required" in message
    assert message.endswith("; and 3 more")
