"""Events survive the way to a parser, whatever they hold."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.client.sse import SseParser
from vlm_sessions.protocol.sse import data_event, named_event

any_text = st.text(st.characters(exclude_categories=()))


@given(st.lists(any_text))
def test_any_texts_come_back_from_a_parser_as_they_were(texts: list[str]) -> None:
    data = b"".join(named_event("token", {"text": text}) for text in texts)

    events = SseParser().feed(data)

    assert [event.event for event in events] == ["token"] * len(texts)
    assert [json.loads(event.data)["text"] for event in events] == texts


def test_an_event_has_the_bytes_of_the_standard() -> None:
    assert named_event("token", {"text": "a"}) == b'event: token\ndata: {"text":"a"}\n\n'
    assert data_event({"a": 1}) == b'data: {"a":1}\n\n'


def test_no_text_can_split_a_line_for_a_client_that_knows_unicode_line_ends() -> None:
    data = data_event({"text": "a\u2028b\u0085c\x1cd\re\nf"}).decode()

    assert len(data.splitlines()) == 2
