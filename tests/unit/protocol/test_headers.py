"""Session headers: what is read, what is announced, what cannot get through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.errors import Draining, InvalidField, MalformedSessionId, QueueFull
from vlm_sessions.protocol import headers
from vlm_sessions.protocol.http import HttpRequest
from vlm_sessions.protocol.schema import Lifetime

LIFETIME = Lifetime(session_id="a1-b2", expires_at=1_767_323_045.999)


def read(value: str) -> str | None:
    return headers.read_session_id(HttpRequest("r", "POST", "/", {headers.SESSION_ID: value}, b""))


def test_absent_empty_and_the_literal_name_no_session() -> None:
    assert headers.read_session_id(HttpRequest("r", "POST", "/", {}, b"")) is None
    assert [read(""), read("  "), read("NEW_SESSION")] == [None, None, None]


@pytest.mark.parametrize("value", ["a", "a--b", " 0123abc ", "ts-seq-0f8f"])
def test_ids_of_sagemakers_form_are_read(value: str) -> None:
    assert read(value) == value.strip()


@pytest.mark.parametrize("value", ["-a", "a-", "new_session", "a b", "a\nb", "ä", "a/b", "x" * 201])
def test_other_ids_are_malformed(value: str) -> None:
    with pytest.raises(MalformedSessionId):
        read(value)


def test_a_long_run_of_hyphens_is_judged_at_once() -> None:
    with pytest.raises(MalformedSessionId):
        read("a" + "-" * 100_000)


def test_an_open_announces_under_both_names_and_later_replies_under_one() -> None:
    value = "a1-b2; Expires=2026-01-02T03:04:05Z"

    assert headers.opened_headers(LIFETIME) == {
        "x-amzn-sagemaker-session-id": value,
        "x-amzn-sagemaker-new-session-id": value,
    }
    assert headers.session_headers(LIFETIME) == {"x-amzn-sagemaker-session-id": value}
    assert headers.session_headers(None) == {}
    assert headers.closed_headers("a1-b2") == {"x-amzn-sagemaker-closed-session-id": "a1-b2"}


def test_the_longest_id_leaves_room_for_its_expiry() -> None:
    longest = Lifetime(session_id="a" * headers.MAX_SESSION_ID_CHARS, expires_at=0)

    assert len(headers.opened_headers(longest)[headers.SESSION_ID]) <= 256


@pytest.mark.parametrize(("seconds", "value"), [(0.0, "1"), (0.2, "1"), (2.0, "2"), (2.2, "3")])
def test_retry_after_is_whole_seconds_and_never_zero(seconds: float, value: str) -> None:
    assert headers.error_headers(QueueFull("x", retry_after=seconds)) == {"retry-after": value}


def test_only_errors_that_pass_say_when_to_retry() -> None:
    assert headers.error_headers(Draining("x")) == {"retry-after": "1"}
    assert headers.error_headers(InvalidField("x")) == {}


@given(st.text(st.characters(exclude_categories=())))
def test_no_value_can_smuggle_in_another_header(value: str) -> None:
    clean = headers.sanitize({"x": value})["x"]

    assert clean.isascii()
    assert clean.isprintable()
