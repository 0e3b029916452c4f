"""Whatever the body: a command, or an error that blames the request. Nothing else ever happens."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.door import request
from tests.support.stub_service import SESSION
from vlm_sessions.errors import InvalidField, InvalidJson, VlmError
from vlm_sessions.protocol.dialects import ChatDialect, read_chat, read_invocation
from vlm_sessions.protocol.dialects.native import COMMANDS
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.jsonio import MAX_COMMAS, parse_object
from vlm_sessions.protocol.schema import MAX_ITEMS, Command

CHAT = ChatDialect("demo", clock=lambda: 0.0)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
our_words = st.sampled_from(
    [
        "type", "prompt", "images", "stream", "stop", "session_id", "requestType", "messages",
        "role", "content", "text", "image_url", "url", "path", "prompt_text", "seed", "top_p",
        "max_tokens", "tools", "n", "stream_options", "data", "system", "temperature",
    ]
)  # fmt: skip
our_values = (
    st.sampled_from([*COMMANDS, "start_session", "send_text_prompt", "NEW_SESSION", "CLOSE"])
    | st.sampled_from(["user", "assistant", "image_url", "text", SESSION, "x"])
    | json_values
)
near_misses = st.recursive(
    our_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(our_words, inner, max_size=6),
    max_leaves=20,
)
bodies = (
    st.binary(max_size=64)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(our_words, near_misses, max_size=6).map(lambda v: json.dumps(v).encode())
)
sessions = st.sampled_from([None, "", "NEW_SESSION", SESSION, "not_one"]) | st.text(max_size=8)
content_types = st.sampled_from([None, "application/json", "image/png", "multipart/form-data", "x"])


@given(bodies, sessions, content_types, st.booleans())
def test_any_body_gives_a_command_or_an_error_of_the_request(
    body: bytes, session: str | None, content_type: str | None, as_chat: bool
) -> None:
    asked = request(body, session=session, content_type=content_type)

    outcome = _read_or_refuse(asked, as_chat=as_chat)

    if isinstance(outcome, VlmError):
        assert 400 <= outcome.status <= 415
        assert outcome.message
    else:
        assert isinstance(outcome, Command)


def _read_or_refuse(asked: HttpRequest, *, as_chat: bool) -> Command | VlmError:
    try:
        return (read_chat if as_chat else read_invocation)(asked, CHAT).command
    except VlmError as error:
        return error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is empty"),
        (b" \n", "The body is empty"),
        (b"{", "line 1 column 1"),
        (b'{"type":\n"prompt",}', "line 2 column 10"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"null", "not an object"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":-Infinity}', "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"a":' * 100_000, "recursion limit"),
        (b'{"a":' + b"1" * 100_000 + b"}", "not JSON"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not UTF-8 (byte 0)"),
        (b'{"a":"\xe4"}', "not UTF-8 (byte 6)"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_not_a_json_object_is_told_why_and_where(body: bytes, message: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse_object(body)

    assert message in caught.value.message


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_a_message_repeats_no_value_and_no_endless_name() -> None:
    secret: dict[str, Any] = {"type": "prompt", "prompt": "x", "temperature": "my secret"}
    for body in (secret, {"type": "prompt", "n" * 100_000: 1}, {"type": "x" * 100_000}):
        with pytest.raises(VlmError) as caught:
            read_invocation(request(body, session=SESSION), CHAT)
        assert "secret" not in caught.value.message
        assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "video/mp4", "audio/x"]
)
@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
def test_content_types_that_cannot_be_json_are_unsupported(content_type: str, path: str) -> None:
    read = read_invocation if path == "/invocations" else read_chat
    with pytest.raises(VlmError) as caught:
        read(request(b"x", content_type=content_type, path=path), CHAT)

    assert caught.value.status == 415


@pytest.mark.parametrize(
    "content_type", [None, "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_json_is_read_under_the_content_types_of_careless_clients(content_type: str | None) -> None:
    asked: HttpRequest = request({"type": "open_session"}, content_type=content_type)

    assert read_invocation(asked, CHAT).command.type == "open_session"


MANY = 50_000
"""Of anything in 25 MB; each must be refused at a glance, or the event loop stands still."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "prompt"} | {f"k{n}": 0 for n in range(MANY)}, "50000 of its fields"),
        ({"type": "open_session", "images": [0] * MANY}, "images[0]: must be a URL"),
        ({"type": "open_session", "images": [""] * MANY}, "at most 4096 items"),
        ({"type": "prompt", "prompt": "x", "stop": [0] * MANY}, "stop[0]: must be a string"),
        ({"messages": [0] * MANY}, "messages[0]: must be an object"),
        ({"messages": [{"role": "user", "content": "x"}] * MANY}, "at most 4096 items"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * MANY}]},
            "the limit is 4096",
        ),
    ],
)
def test_endless_lists_are_refused_without_looking_at_every_item(
    fields: dict[str, Any], message: str
) -> None:
    asked = request(fields, session=SESSION if fields.get("type") == "prompt" else None)
    begun = time.process_time()
    with pytest.raises(InvalidField) as caught:
        read_invocation(asked, CHAT)
    assert message in caught.value.message
    assert len(caught.value.message) < 600
    assert time.process_time() - begun < 1.0  # item by item it takes ten times as long


def test_a_body_of_nothing_but_tiny_values_is_not_even_parsed() -> None:
    body = b'{"type":"prompt","x":[' + b"0," * MAX_COMMAS + b"0]}"
    with pytest.raises(InvalidField, match="values"):
        parse_object(body)


def test_as_many_messages_as_a_list_may_have_are_read() -> None:
    messages = [{"role": "user", "content": "x"}] * MAX_ITEMS
    command = read_invocation(request({"messages": messages}), CHAT).command
    assert len(getattr(command, "messages")) == MAX_ITEMS  # noqa: B009
