"""What fewer bits cost: bfloat16 as a whole, and keys and values in 8 bits.

Stated as tolerances: of logits, on random weights, relative to how far the logits of a position lie
apart; and of the built-in model's right answers, which may change by half a point in a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from demo.evaluate import single_questions
from demo.talker import Message
from tests.model.dialogue import Dialogue, answer_all
from tests.model.reference import Reference
from tests.model.test_paged_attention import encode, paged_logits, span
from tests.model.tiny import noise_image
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Sampling
from vlm_sessions.model.kv_cache import quantize
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import ModelRunner, make_runner
from vlm_sessions.processing import Processor

DEMO_MODEL = Path(__file__).parents[2] / "demo" / "model"
NUM_EACH = 9
"""Questions of each of 28 kinds."""


def make(path: Path, **settings: str) -> ModelRunner:
    chosen = {"device": "cpu", "threads": 1, "kv_cache_mb": 16, **settings}
    return make_runner(Settings.model_validate(chosen), path)


def error(runner: ModelRunner, path: Path) -> float:
    """Root mean square of the logits' errors after all tokens of a conversation that is computed in
    two parts, over the logits' standard deviation."""
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(path), "What is this? And behind it? " * 8, [noise_image(1)])
    expected = Reference(path).logits(dialogue.tokens, dialogue.pixels)
    encode(runner, dialogue.pixels)
    num_tokens = len(dialogue.tokens)
    table = tuple(range(3, 4 + num_tokens // runner.info.block_size))
    got = [
        paged_logits(runner, [span(dialogue, table, start, end)])
        for start, end in ((0, num_tokens // 2), (num_tokens // 2, num_tokens))
    ]
    return float((torch.cat(got) - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 2e-6),
        ({"dtype": "bfloat16"}, 0.02),
        ({"kv_dtype": "fp8"}, 0.08),
        ({"dtype": "bfloat16", "kv_dtype": "fp8"}, 0.08),
    ],
    ids=["float32", "bfloat16", "fp8", "bfloat16 and fp8"],
)
def test_logits_on_random_weights_are_off_by_no_more_than(
    tiny_path: Path, settings: dict[str, str], tolerance: float
) -> None:
    off = error(make(tiny_path, **settings), tiny_path)
    assert off < tolerance
    assert off > tolerance / 20, "a tolerance that nothing comes near holds nothing"


@dataclass
class OurTalker:
    """``demo.talker.Answers`` by our engine, for conversations of one question."""

    engine: Engine
    processor: Processor

    def answer(self, chats: list[list[Message]], images: list[list[Image.Image]]) -> list[str]:
        dialogues = [Dialogue(str(number)) for number in range(len(chats))]
        for dialogue, (message,), shown in zip(dialogues, chats, images, strict=True):
            dialogue.ask(self.processor, message["content"][-1]["text"], shown)
        outcomes = answer_all(self.engine, dialogues, Sampling(max_new_tokens=24))
        texts = []
        for dialogue in dialogues:
            text = self.processor.detokenizer()
            said = [text.push(token) for token in outcomes[dialogue.key].answer]
            texts.append("".join([*said, text.flush()]))
        return texts


@cache
def accuracy(**settings: str) -> float:
    """Right answers of the built-in model, in a hundred."""
    talker = OurTalker(
        Engine(make(DEMO_MODEL, **settings), EngineLimits()), make_processor(DEMO_MODEL)
    )
    score = single_questions(talker, NUM_EACH, section=22)
    assert score.num_asked() > 250
    return 100 * score.accuracy()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"kv_dtype": "fp8"}], ids=str)
def test_the_built_in_models_answers_stay_within_half_a_point(settings: dict[str, str]) -> None:
    assert accuracy() > 90
    assert abs(accuracy(**settings) - accuracy()) <= 0.5


def test_numbers_of_8_bits_keep_their_first_digits_and_never_overflow() -> None:
    values = torch.tensor([0.0, 1.0, -3.3, 100.0, 1e6, -1e6])
    scales = torch.tensor(0.5)
    stored = quantize(values, scales)
    back = stored.float() * scales
    assert stored.dtype == torch.float8_e4m3fn
    assert back[:4].tolist() == pytest.approx(values[:4].tolist(), rel=1 / 16)
    assert back[4:].tolist() == [224, -224]
