"""The rule as a function: sessions answered by the engine beside the reference, token for token."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.model.dialogue import Dialogue, Outcome, answer_all
from tests.model.reference import Reference
from tests.model.tiny import noise_image
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Sampling
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import make_runner

NUM_TURNS = 6
GREEDY = Sampling(max_new_tokens=12)
QUESTIONS = ("What is this?", "And behind it?", "How many?", "Is it red?", "Why?", "Is it big?")


def make_engine(
    path: Path,
    *,
    device: str = "cpu",
    kv_cache_mb: int = 8,
    max_batch_tokens: int = 64,
    image_tiles: str = "many",
) -> Engine:
    """An engine over a checkpoint in float32: equality holds only where arithmetic is exact enough.

    Batches are small, so that prefills are split and mixed with decodes.
    """
    settings = Settings.model_validate(
        {
            "device": device,
            "dtype": "float32",
            "threads": 1,
            "kv_cache_mb": kv_cache_mb,
            "image_tiles": image_tiles,
        }
    )
    return Engine(make_runner(settings, path), EngineLimits(max_batch_tokens=max_batch_tokens))


def answer_and_compare(
    engine: Engine, dialogues: list[Dialogue], reference: Reference, sampling: Sampling = GREEDY
) -> dict[str, Outcome]:
    """Answer the last question of each dialogue in one batch; assert what ``generate`` answers."""
    wholes = [list(dialogue.tokens) for dialogue in dialogues]
    outcomes = answer_all(engine, dialogues, sampling)
    for dialogue, whole in zip(dialogues, wholes, strict=True):
        expected = reference.answer(whole, dialogue.pixels, max_new_tokens=sampling.max_new_tokens)
        assert outcomes[dialogue.key].answer == expected, f"{dialogue.key}, {len(whole)} tokens"
    return outcomes


def branch_and_compare(
    path: Path, engine: Engine, *, seed: int, num_rounds: int = 8, device: str = "cpu"
) -> list[Outcome]:
    """Fork and rewind sessions at random, and ask all of them in every round."""
    processor, reference = make_processor(path), Reference(path, device=device)
    random = Random(seed)
    dialogues = [Dialogue("s0"), Dialogue("s1")]
    answered: list[Outcome] = []
    for _ in range(num_rounds):
        for dialogue in tuple(dialogues):
            if dialogue.beginnings and random.random() < 0.4:
                dialogue.rewind(random.randint(1, len(dialogue.beginnings)))
            if len(dialogues) < 6 and random.random() < 0.4:
                dialogues.append(dialogue.fork(f"s{len(dialogues)}"))
        for dialogue in dialogues:
            wants_picture = not dialogue.images or random.random() < 0.2
            pictures = [noise_image(random.randrange(3))] if wants_picture else []
            dialogue.ask(processor, random.choice(QUESTIONS), pictures)
        answered += answer_and_compare(engine, dialogues, reference).values()
    return answered


def hold_and_compare(
    path: Path, engine: Engine, *, num_sessions: int, device: str = "cpu", clear: bool = False
) -> None:
    """Hold sessions of ``NUM_TURNS`` turns side by side, against the reference at every turn.

    Args:
        clear: drop every cache between turns. Otherwise each later turn computes only its own
            words, and the token before them, which was the last one to be sampled.
    """
    processor, reference = make_processor(path), Reference(path, device=device)
    dialogues = [Dialogue(f"s{n}") for n in range(num_sessions)]
    num_answered = 0
    for turn in range(NUM_TURNS):
        earlier = {dialogue.key: len(dialogue.tokens) for dialogue in dialogues}
        for number, dialogue in enumerate(dialogues):
            # Three pictures among all sessions, so that some share theirs; one more comes later.
            pictures = [noise_image(number % 3)] if turn == 0 else []
            pictures += [noise_image(100 + number)] if turn == 3 else []
            question = QUESTIONS[(turn + number) % len(QUESTIONS)]
            dialogue.ask(processor, question, pictures)
        outcomes = answer_and_compare(engine, dialogues, reference)
        num_answered += sum(len(outcome.answer) for outcome in outcomes.values())
        if clear:
            engine.clear()
        elif turn:
            assert all(outcomes[key].cached_tokens >= earlier[key] - 1 for key in outcomes)
    assert num_answered > num_sessions * NUM_TURNS, "too little was said to prove anything"
