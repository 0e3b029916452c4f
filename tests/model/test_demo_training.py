"""Training's short cuts change nothing: many conversations on one picture are as each alone."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from demo.attention import FLOAT32_ATTENTION, branch_mask, register_float32_attention
from demo.dialogue import KINDS, Dialogue
from demo.model import build_model
from demo.recipe import Recipe
from demo.rows import IGNORE, Conversations, start_weights
from demo.store import draw_store, make_scene
from demo.tokenizer import ASSISTANT, EOS, IMAGE, token_ids
from demo.trainer import Trainer


class SmallRows(Conversations):
    SHORT = (3, 192)
    LONG = (1, 384)
    LONG_EVERY = 2


def batches() -> list[dict[str, torch.Tensor]]:
    """One of short rows, one of a long row, on grey pictures."""
    pictures = np.random.default_rng(0).integers(0, 255, (20, 96, 96, 3), dtype=np.uint8)
    rows = iter(SmallRows(pictures, start_weights(), seed=1))
    return [next(rows), next(rows)]


def test_same_seed_same_batches() -> None:
    for first, second in zip(batches(), batches(), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_targets_are_the_answers() -> None:
    ids = token_ids()
    for batch in batches():
        tokens, targets = batch["tokens"].flatten(), batch["targets"].flatten()
        learned = targets != IGNORE
        assert torch.equal(targets[learned], tokens.roll(-1)[learned])
        num_answers = len(batch["kinds"])
        assert (tokens[learned] == ids[ASSISTANT]).sum() == num_answers
        assert (targets == ids[EOS]).sum() == num_answers
        assert set(batch["answers"][batch["answers"] >= 0].tolist()) == {*range(num_answers)}
        assert (tokens == ids[IMAGE]).sum() == 64 * len(batch["pixels"])
        assert batch["kinds"].max() < len(KINDS)


@torch.inference_mode()
def test_a_branch_is_as_its_conversation_alone() -> None:
    register_float32_attention()
    packed, alone = build_model(seed=0).eval(), build_model(seed=0).eval()
    for model in (packed, alone):
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():  # layers that begin with zeros would hide the mask
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    packed.set_attn_implementation(FLOAT32_ATTENTION)
    for batch in batches():
        pixels = batch["pixels"].permute(0, 3, 1, 2).float() / 255
        together = packed(
            input_ids=batch["tokens"],
            pixel_values=pixels,
            attention_mask=branch_mask(batch["segments"]),
            position_ids=batch["positions"],
        ).logits
        first = 0
        for row, segments in enumerate(batch["segments"]):
            num_pictures = int((batch["tokens"][row] == token_ids()[IMAGE]).sum()) // 64
            for segment in segments.unique().tolist():
                chosen = (segments == 0) | (segments == segment)
                if segment < 0:
                    continue
                tokens = batch["tokens"][row][chosen][None]
                expected = alone(
                    input_ids=tokens,
                    pixel_values=pixels[first : first + num_pictures] if num_pictures else None,
                    attention_mask=torch.ones_like(tokens),
                    position_ids=batch["positions"][row][chosen][None],
                ).logits[0]
                torch.testing.assert_close(together[row][chosen], expected, atol=2e-4, rtol=1e-4)
            first += num_pictures


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    recipe = Recipe(minutes=0.02, num_pictures=8, vision_batch=4)
    trainers = [Trainer(recipe, tmp_path / "store.npy", tmp_path, tmp_path, 1) for _ in range(2)]
    pictures = draw_store(tmp_path / "store.npy", 8, 1, lambda _: None)
    first, second = trainers
    first.train_vision(pictures)
    first.checkpoint()
    second.resume()
    assert second.stage == 1
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("done", "factor"), [(0.0, 0.01), (0.1, 1.0), (0.625, 0.5), (1.0, 0.0)])
def test_the_rate_falls_to_zero_with_the_clock(done: float, factor: float) -> None:
    assert Recipe().rate_factor(done) == pytest.approx(factor, abs=1e-6)


def test_the_last_stage_asks_where_the_other_one_is_and_by_hard_roads() -> None:
    pictures = np.zeros((200, 96, 96, 3), dtype=np.uint8)
    shares = {}
    for twin_share in (0.0, 0.5):
        rows = iter(Conversations(pictures, start_weights(), seed=1, twin_share=twin_share))
        kinds = torch.cat([next(rows)["kinds"] for _ in range(8)])
        shares[twin_share] = (kinds == KINDS.index("other_where")).float().mean()
    assert shares[0.5] > 2 * shares[0.0] > 0


def test_another_one_is_asked_for_only_where_it_is_known_what_it_would_be() -> None:
    asked = 0
    for seed in range(400):
        dialogue = Dialogue(Random(seed), make_scene(seed), twin_share=0.5)
        for _ in range(8):
            before = dialogue.memory
            question = dialogue.ask()
            if question.kind == "another":
                assert before is not None
                assert before.topic is not None
                assert before.kind not in ("size_at", "colour_at", "shape_at")
                asked += 1
    assert asked > 100


def test_a_run_goes_through_its_stages_and_what_is_left_of_them(tmp_path: Path) -> None:
    recipe = Recipe(minutes=0.001, num_pictures=8, vision_batch=4)
    trainer = Trainer(recipe, tmp_path / "store.npy", tmp_path, tmp_path / "out", 1)
    trainer.run()
    assert trainer.stage == 2
    assert (tmp_path / "out" / "model.safetensors").exists()
    resumed = Trainer(recipe, tmp_path / "store.npy", tmp_path, tmp_path / "out", 1)
    resumed.resume()
    assert (resumed.stage, resumed.step) == (2, trainer.step)
