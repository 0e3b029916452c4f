"""Templates of the models with tiles: what is said is what the model was given."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.model.reference import Reference
from tests.model.test_service_equals_generate import invoke, running
from tests.model.tiny import noise_image
from tests.model.tiny_tiles import NEXT, ONEVISION, TiledKind
from vlm_sessions.model.processor import HFProcessor, make_processor
from vlm_sessions.processing import ImageRef, Message

IMAGE = ImageRef("digest", 20)
CONVERSATION = [
    Message("user", "What is this?", (IMAGE,)),
    Message("assistant", "It is."),
    Message("user", "And this?", (IMAGE,)),
]
MAX_NEW_TOKENS = 12


def tokenized_by_transformers(path: Path, messages: list[Message]) -> list[int]:
    """A conversation as the checkpoint's own template and tokenizer have it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    rendered = tokenizer.apply_chat_template(
        [
            {
                "role": message.role,
                "content": [{"type": "image"} for _ in message.images]
                + [{"type": "text", "text": message.text}],
            }
            for message in messages
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    tokens: list[int] = tokenizer(rendered.replace("<image>", "<image>" * 20))["input_ids"]
    return tokens


def in_turns(processor: HFProcessor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two turns of ``CONVERSATION`` as a session records them."""
    first = processor.encode_turn(first=True, system=None, text="What is this?", images=[IMAGE])
    later = processor.encode_turn(first=False, system=None, text="And this?", images=[IMAGE])
    return first.tokens, later.tokens


def test_an_end_of_answer_that_is_text_stays_a_token_of_its_own_in_a_session(
    tiled_paths: dict[str, Path],
) -> None:
    path = tiled_paths[NEXT.name]
    processor = make_processor(path)
    first, later = in_turns(processor)
    whole = tokenized_by_transformers(path, CONVERSATION)
    assert list(processor.encode_conversation(CONVERSATION).tokens) == whole
    assert tuple(whole[: len(first)]) == first
    # Read as a whole, the answer's full stop and the "<" behind it are one token; nobody said that.
    assert tuple(whole[1 - len(later) :]) == later[1:]
    assert processor.decode([whole[-len(later)]]) == ".<"
    assert processor.decode(later[:1]) == "<"


def test_an_answer_of_the_past_stands_where_the_model_began_it(
    tiled_paths: dict[str, Path],
) -> None:
    path = tiled_paths[ONEVISION.name]
    processor = make_processor(path)
    first, later = in_turns(processor)
    answer = processor.encode_conversation([Message("user", "It is.")]).tokens  # has its words
    whole = processor.encode_conversation(CONVERSATION).tokens
    assert whole[: len(first)] == first
    assert whole[-len(later) :] == later
    said = whole[len(first) : -len(later)]
    assert processor.decode(said) == "It is."
    assert set(said) < set(answer)
    # The template writes a space more there, which no generation prompt has.
    theirs = tokenized_by_transformers(path, CONVERSATION)
    assert len(theirs) == len(whole) + 1
    assert processor.decode(theirs).replace(" \nIt is.", "\nIt is.") == processor.decode(whole)


@pytest.mark.parametrize(
    ("kind", "tiles"), [(NEXT, "many"), (ONEVISION, "many"), (ONEVISION, "one")]
)
async def test_a_session_of_several_pictures_answers_through_the_service_as_generate_does(
    kind: TiledKind, tiles: str, tiled_paths: dict[str, Path], tmp_path: Path
) -> None:
    path = tiled_paths[kind.name]
    processor, reference = make_processor(path, one_tile=tiles == "one"), Reference(path)
    shown = [[noise_image(0, (90, 41)), noise_image(1, (30, 64))], [], [noise_image(2, (70, 70))]]
    tokens: list[int] = []
    pixels = []
    async with running(path, tmp_path, image_tiles=tiles) as start:
        app = await start()
        opening = {"type": "open_session", "images": [inline(one) for one in shown[0]]}
        opened = await invoke(app, opening)
        for turn, pictures in enumerate(shown):
            if turn == 1:
                app = await start()  # what was computed ahead is gone; the record is not
            refs = [ImageRef("any", processor.num_image_tokens(*one.size)) for one in pictures]
            pixels += [processor.pixels(one, "any") for one in pictures]
            segment = processor.encode_turn(
                first=not turn, system=None, text="What is this?", images=refs
            )
            tokens += segment.tokens
            expected = await asyncio.to_thread(
                reference.answer, tokens, pixels, max_new_tokens=MAX_NEW_TOKENS
            )
            command = {
                "type": "prompt",
                "prompt": "What is this?",
                "max_new_tokens": MAX_NEW_TOKENS,
                "images": [inline(one) for one in pictures if turn],
            }
            answer = await invoke(app, command, opened["session_id"])
            assert answer["text"] == processor.decode(expected)
            assert answer["usage"]["completion_tokens"] == len(expected)
            tokens += expected
        described = await invoke(app, {"type": "describe_session"}, opened["session_id"])
    sizes = [one.size for pictures in shown for one in pictures]
    expected_tokens = [processor.num_image_tokens(*size) for size in sizes]
    assert [image["tokens"] for image in described["images"]] == expected_tokens
    assert len(set(expected_tokens)) == (3 if tiles == "many" else 1)


def inline(picture: Image.Image) -> dict[str, Any]:
    """A picture as requests carry it."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return {"data": base64.b64encode(data.getvalue()).decode()}
