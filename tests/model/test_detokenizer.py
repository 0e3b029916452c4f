"""Text as it comes: no half characters, and in the end exactly what decoding it all gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_sessions.model.processor import HFProcessor, make_processor

TEXTS = (
    "A cat on a mat.",
    " leading  and   double spaces ",
    "naïve 猫は🐈\u200d⬛ — fin",
    "\n\n- a\n- b",
    "é",
)


@pytest.fixture
def processor(tiny_path: Path) -> HFProcessor:
    return make_processor(tiny_path)


def pieces_of(processor: HFProcessor, tokens: list[int]) -> list[str]:
    stream = processor.detokenizer()
    return [*(stream.push(token) for token in tokens), stream.flush()]


def token_ids(processor: HFProcessor, text: str) -> list[int]:
    segment = processor.encode_turn(first=False, system=None, text=text, images=[])
    return list(segment.tokens)


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_half_a_character(processor: HFProcessor, text: str) -> None:
    tokens = token_ids(processor, text)
    pieces = pieces_of(processor, tokens)
    assert "".join(pieces) == processor.decode(tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_words_come_out_one_by_one(processor: HFProcessor) -> None:
    pieces = pieces_of(processor, token_ids(processor, "This is a cat on a mat"))
    assert sum(bool(piece) for piece in pieces) > 5


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(st.integers(0, 10_000), max_size=40))
def test_pieces_of_any_tokens_join_to_their_text(
    processor: HFProcessor, numbers: list[int]
) -> None:
    vocabulary = processor._backend.get_vocab_size()
    tokens = [number % vocabulary for number in numbers]
    assert "".join(pieces_of(processor, tokens)) == processor.decode(tokens)


def test_a_character_cut_off_by_the_end_is_flushed_as_its_replacement(
    processor: HFProcessor,
) -> None:
    tokens = processor._backend.encode("猫", add_special_tokens=False).ids[:-1]
    stream = processor.detokenizer()
    assert "".join(stream.push(token) for token in tokens).strip() == ""
    assert "\N{REPLACEMENT CHARACTER}" in stream.flush()
