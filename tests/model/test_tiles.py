"""Sessions of pictures cut into tiles: LLaVA-NeXT and LLaVA-OneVision beside ``generate``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoImageProcessor

from tests.model.dialogue import Dialogue
from tests.model.exactness import QUESTIONS, answer_and_compare, make_engine
from tests.model.reference import Reference
from tests.model.tiny import IMAGE_SIZE, noise_image
from tests.model.tiny_tiles import (
    GRID,
    ONEVISION,
    SIZES,
)
from vlm_sessions.model.processor import make_processor


def test_sessions_of_several_pictures_and_turns_answer_as_generate_does(tiled_path: Path) -> None:
    """Each has two pictures more at its third turn, in other numbers of tiles than the others.

    What ``generate`` is given is the whole conversation, all its pictures at once.
    """
    engine, processor, reference = (
        make_engine(tiled_path),
        make_processor(tiled_path),
        Reference(tiled_path),
    )
    dialogues = [Dialogue(f"s{number}", "Be brief.") for number in range(len(SIZES))]
    for turn in range(4):
        for number, dialogue in enumerate(dialogues):
            pictures = [noise_image(number, SIZES[number])] if turn == 0 else []
            if turn == 2:
                pictures = [noise_image(10 + n, SIZES[n]) for n in (number - 1, number - 2)]
            dialogue.ask(processor, QUESTIONS[turn], pictures)
        outcomes = answer_and_compare(engine, dialogues, reference)
        assert sum(len(outcome.answer) for outcome in outcomes.values()) > len(dialogues)
    assert {len(dialogue.images) for dialogue in dialogues} == {3}


def test_a_session_answers_the_same_after_every_cache_was_dropped(tiled_path: Path) -> None:
    engine, processor, reference = (
        make_engine(tiled_path),
        make_processor(tiled_path),
        Reference(tiled_path),
    )
    dialogue = Dialogue("s0")
    for turn, size in enumerate(SIZES[:3]):
        dialogue.ask(processor, QUESTIONS[turn], [noise_image(turn, size)])
        answer_and_compare(engine, [dialogue], reference)
        engine.clear()


def test_frames_of_a_video_are_so_many_pictures(tiled_path: Path) -> None:
    engine, processor, reference = (
        make_engine(tiled_path),
        make_processor(tiled_path),
        Reference(tiled_path),
    )
    frames = [noise_image(number, (64, 36)) for number in range(8)]
    dialogue = Dialogue("s0")
    dialogue.ask(processor, "What happens?", frames)
    assert len(dialogue.images) == 8
    answer_and_compare(engine, [dialogue], reference)


def test_a_picture_in_two_sessions_is_encoded_once_however_many_pictures_they_have(
    tiled_path: Path,
) -> None:
    engine, processor, reference = (
        make_engine(tiled_path),
        make_processor(tiled_path),
        Reference(tiled_path),
    )
    shared = noise_image(0, (90, 41))
    alone, among = Dialogue("alone"), Dialogue("among")
    alone.ask(processor, QUESTIONS[0], [shared])
    answer_and_compare(engine, [alone], reference)
    among.ask(processor, QUESTIONS[0], [noise_image(1, (33, 100)), shared])
    answer_and_compare(engine, [among], reference)
    assert engine.stats().images_encoded_total == 2


def test_pixels_and_features_are_accounted_in_bytes_whatever_the_tiles(tiled_path: Path) -> None:
    engine, processor = make_engine(tiled_path), make_processor(tiled_path)
    dialogue = Dialogue("s0")
    dialogue.ask(processor, QUESTIONS[0], [noise_image(n, size) for n, size in enumerate(SIZES)])
    answer_and_compare(engine, [dialogue], Reference(tiled_path))
    stats = engine.stats()
    assert stats.pixel_bytes == sum(
        image.shape[0] * 3 * IMAGE_SIZE**2 * 4 for image in dialogue.pixels
    )
    assert stats.feature_bytes == sum(span.length for span in dialogue.images) * 64 * 4


def test_pictures_shown_as_a_whole_are_answered_as_generate_does_for_several_pictures(
    tiled_paths: dict[str, Path],
) -> None:
    path = tiled_paths[ONEVISION.name]
    engine = make_engine(path, image_tiles="one")
    processor, reference = make_processor(path, one_tile=True), Reference(path)
    theirs = AutoImageProcessor.from_pretrained(path, backend="pil")
    pictures = [noise_image(number, size) for number, size in enumerate(SIZES)]
    dialogue = Dialogue("s0")
    dialogue.ask(processor, "What happens?", pictures)
    expected = theirs([pictures], return_tensors="np")["pixel_values"]
    for ours, tiles in zip(dialogue.pixels, expected, strict=True):
        assert np.array_equal(np.frombuffer(ours.data, "<f4"), tiles.ravel())
    assert {span.length for span in dialogue.images} == {GRID**2 + 1}
    answer_and_compare(engine, [dialogue], reference)
    dialogue.ask(processor, "And this?", [noise_image(9, (90, 41))])
    answer_and_compare(engine, [dialogue], reference)
