"""The rule that never bends: a session's greedy answers are those of plain ``generate``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.dialogue import Dialogue, answer_all
from tests.model.exactness import (
    GREEDY,
    QUESTIONS,
    answer_and_compare,
    branch_and_compare,
    hold_and_compare,
    make_engine,
)
from tests.model.reference import Reference
from tests.model.tiny import noise_image
from vlm_sessions.engine.blocks import BlockPool
from vlm_sessions.engine.types import Sampling
from vlm_sessions.model.processor import make_processor

DEMO_MODEL = Path(__file__).parents[2] / "demo" / "model"


def test_one_session_answers_as_generate_does(tiny_path: Path) -> None:
    hold_and_compare(tiny_path, make_engine(tiny_path), num_sessions=1)


def test_eight_sessions_in_one_batch_answer_as_generate_does(tiny_path: Path) -> None:
    hold_and_compare(tiny_path, make_engine(tiny_path), num_sessions=8)


def test_answers_are_the_same_after_every_cache_was_dropped(tiny_path: Path) -> None:
    hold_and_compare(tiny_path, make_engine(tiny_path), num_sessions=2, clear=True)


def test_a_prefill_in_small_chunks_changes_no_answer(tiny_path: Path) -> None:
    hold_and_compare(tiny_path, make_engine(tiny_path, max_batch_tokens=16), num_sessions=3)


def test_a_pool_too_small_for_all_sessions_changes_no_answer(tiny_path: Path) -> None:
    engine = make_engine(tiny_path, kv_cache_mb=1)
    processor, reference = make_processor(tiny_path), Reference(tiny_path)
    room = engine.info.num_blocks * engine.info.block_size
    dialogues: list[Dialogue] = []
    while sum(len(dialogue.tokens) for dialogue in dialogues) < 2 * room:
        number = len(dialogues)
        dialogues.append(Dialogue(f"s{number}"))
        pictures = [noise_image(number), noise_image(50 + number)]
        dialogues[-1].ask(processor, "What is this? " * 20, pictures)
    answer_and_compare(engine, dialogues, reference, Sampling(max_new_tokens=24))
    for dialogue in dialogues:
        dialogue.ask(processor, "And this?")
    answer_and_compare(engine, dialogues, reference, Sampling(max_new_tokens=24))
    assert engine.stats().blocks_evicted_total > 0


@pytest.mark.parametrize("seed", range(2))
def test_forked_and_rewound_sessions_answer_as_generate_does(tiny_path: Path, seed: int) -> None:
    engine = make_engine(tiny_path)
    answered = branch_and_compare(tiny_path, engine, seed=seed)
    assert engine.stats().blocks_copied_total > 0
    assert sum(outcome.cached_tokens > 0 for outcome in answered) > len(answered) / 2


def test_forks_and_rewinds_in_a_pool_too_small_for_them_change_no_answer(tiny_path: Path) -> None:
    engine = make_engine(tiny_path)
    engine.scheduler.caches.pool = BlockPool(40, engine.info.block_size)
    branch_and_compare(tiny_path, engine, seed=2)
    assert engine.stats().blocks_evicted_total > 0
    assert engine.stats().blocks_copied_total > 0


@pytest.mark.skipif(not DEMO_MODEL.is_dir(), reason="the built-in model has not been trained")
def test_the_built_in_model_answers_as_generate_does() -> None:
    hold_and_compare(DEMO_MODEL, make_engine(DEMO_MODEL), num_sessions=3)


def test_the_picture_decides_the_answer(tiny_path: Path) -> None:
    processor, engine = make_processor(tiny_path), make_engine(tiny_path)
    dialogues = [Dialogue(f"s{n}") for n in range(4)]
    for number, dialogue in enumerate(dialogues):
        dialogue.ask(processor, QUESTIONS[0], [noise_image(number)])
    outcomes = answer_all(engine, dialogues, GREEDY)
    assert len({tuple(outcome.answer) for outcome in outcomes.values()}) > 1


def test_sampling_with_a_seed_does_not_depend_on_the_batch(tiny_path: Path) -> None:
    processor = make_processor(tiny_path)
    sampling = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.9, seed=11)
    answers = []
    for num_others in (0, 5):
        engine = make_engine(tiny_path)
        dialogues = [Dialogue(f"s{n}") for n in range(1 + num_others)]
        for number, dialogue in enumerate(dialogues):
            dialogue.ask(processor, QUESTIONS[number], [noise_image(number)])
        answers.append(answer_all(engine, dialogues, sampling)["s0"].answer)
    assert answers[0] == answers[1]


def test_a_picture_that_many_open_at_the_same_moment_is_encoded_once(tiny_path: Path) -> None:
    processor, engine = make_processor(tiny_path), make_engine(tiny_path)
    dialogues = [Dialogue(f"s{number}") for number in range(12)]
    for number, dialogue in enumerate(dialogues):
        dialogue.ask(processor, f"What is number {number}?", [noise_image(7)])
    answer_all(engine, dialogues, Sampling(max_new_tokens=2))
    assert engine.stats().images_encoded_total == 1


def test_sessions_on_one_picture_encode_it_once(tiny_path: Path) -> None:
    processor, engine = make_processor(tiny_path), make_engine(tiny_path)
    for number in range(4):
        dialogue = Dialogue(f"s{number}")
        dialogue.ask(processor, f"What is number {number}?", [noise_image(7)])
        answer_all(engine, [dialogue], GREEDY)
    assert engine.stats().images_encoded_total == 1
