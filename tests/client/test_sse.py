from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.client.sse import ServerSentEvent, SseParser

STREAM = (
    b': a comment\n\nevent: token\ndata: {"text": "h\xc3\xa9"}\n\n'
    b"data: one\r\ndata: two\r\n\r\nid: 7\nevent:done\ndata:end\n\n"
)
EVENTS = [
    ServerSentEvent('{"text": "hé"}', "token"),
    ServerSentEvent("one\ntwo"),
    ServerSentEvent("end", "done"),
]


def test_a_whole_stream_gives_its_events_in_order() -> None:
    assert SseParser().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_chunks_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parser = SseParser()
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert [event for chunk in chunks for event in parser.feed(chunk)] == EVENTS


@pytest.mark.parametrize("unfinished", [b"data: x", b"data: x\n", b"event: token\n\n"])
def test_what_is_not_complete_is_no_event(unfinished: bytes) -> None:
    assert SseParser().feed(unfinished) == []
