"""The paged forward pass gives the logits of the plain one, wherever its blocks lie."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.model.dialogue import Dialogue
from tests.model.reference import Reference
from tests.model.tiny import noise_image
from vlm_sessions.config import Settings
from vlm_sessions.engine.types import Draw, ImageSlice, ImageSpan, Plan, Sampling, TokenSpan
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import ModelRunner, make_runner

BLOCK_SIZE = 16
TOLERANCE = 1e-4


@pytest.fixture
def runner(tiny_path: Path) -> ModelRunner:
    return make_runner(Settings(device="cpu", threads=1, kv_cache_mb=4), tiny_path)


def slices(images: Sequence[ImageSpan], start: int, end: int) -> tuple[ImageSlice, ...]:
    """The parts of images that fall on positions ``[start, end)``."""
    cut = []
    for image in images:
        first, last = max(start, image.start), min(end, image.start + image.length)
        if first < last:
            cut.append(ImageSlice(image.digest, first - image.start, first - start, last - first))
    return tuple(cut)


def span(dialogue: Dialogue, blocks: tuple[int, ...], start: int, end: int) -> TokenSpan:
    tokens = tuple(dialogue.tokens[start:end])
    return TokenSpan(dialogue.key, tokens, start, blocks, slices(dialogue.images, start, end))


def paged_logits(runner: ModelRunner, spans: Sequence[TokenSpan]) -> torch.Tensor:
    """Logits of every token of a step, not only of those that draw."""
    with torch.inference_mode():
        logits: torch.Tensor = runner._lm_head(runner._forward(spans))
    return logits


def test_scattered_blocks_and_split_prefills_of_several_conversations_give_plain_logits(
    runner: ModelRunner, tiny_path: Path
) -> None:
    processor, reference = make_processor(tiny_path), Reference(tiny_path)
    rng = random.Random(0)
    free = list(range(runner.info.num_blocks))
    rng.shuffle(free)
    dialogues, tables, expected = [], [], []
    for number in range(5):
        dialogue = Dialogue(f"c{number}")
        pictures = [noise_image(number)] * (number % 3)
        dialogue.ask(processor, "What is this? " * (1 + 3 * number), pictures)
        dialogues.append(dialogue)
        tables.append(tuple(free.pop() for _ in range(len(dialogue.tokens) // BLOCK_SIZE + 1)))
        expected.append(reference.logits(dialogue.tokens, dialogue.pixels))
        runner.execute(Plan(encode=tuple({p.digest: p for p in dialogue.pixels}.values())))

    done = [0] * len(dialogues)
    while any(n < len(d.tokens) for n, d in zip(done, dialogues, strict=True)):
        spans, wanted = [], []
        for number, dialogue in enumerate(dialogues):
            start = done[number]
            # Chunks of one token (as decoding) up to many, cutting images anywhere.
            end = min(len(dialogue.tokens), start + rng.choice([1, 1, 2, 7, 30]))
            if start == end:
                continue
            spans.append(span(dialogue, tables[number], start, end))
            wanted.append(expected[number][start:end])
            done[number] = end
        difference = (paged_logits(runner, spans) - torch.cat(wanted)).abs().max()
        assert difference < TOLERANCE


def test_a_table_longer_than_the_context_changes_nothing(
    runner: ModelRunner, tiny_path: Path
) -> None:
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(tiny_path), "How many cats?")
    expected = Reference(tiny_path).logits(dialogue.tokens, [])
    table = tuple(range(3, 20))
    last = len(dialogue.tokens) - 1
    paged = torch.cat(
        [
            paged_logits(runner, [span(dialogue, table, 0, last)]),
            paged_logits(runner, [span(dialogue, table, last, last + 1)]),
        ]
    )
    assert (paged - expected).abs().max() < TOLERANCE


def test_a_span_without_its_image_fails_loudly(runner: ModelRunner, tiny_path: Path) -> None:
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(tiny_path), "What is this?", [noise_image(1)])
    whole = span(dialogue, tuple(range(8)), 0, len(dialogue.tokens))
    with pytest.raises(RuntimeError, match="not on the device"):
        runner.execute(Plan(spans=(whole,)))
    runner.execute(Plan(encode=tuple(dialogue.pixels), spans=(whole,)))
    with pytest.raises(RuntimeError, match="not on the device"):
        runner.execute(Plan(drop=(dialogue.pixels[0].digest,), spans=(whole,)))


def test_only_spans_that_draw_are_sampled_in_their_order(
    runner: ModelRunner, tiny_path: Path
) -> None:
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(tiny_path), "What is this?")
    end = len(dialogue.tokens)
    draw = Draw(Sampling(max_new_tokens=1), 0)
    spans = tuple(
        TokenSpan(name, tuple(dialogue.tokens), 0, tuple(range(at, at + 8)), (), wants)
        for name, at, wants in (("a", 0, draw), ("b", 8, None), ("c", 16, draw))
    )
    result = runner.execute(Plan(spans=spans))
    best = int(Reference(tiny_path).logits(dialogue.tokens, [])[end - 1].argmax())
    assert [sampled.turn_id for sampled in result.sampled] == ["a", "c"]
    assert {sampled.token for sampled in result.sampled} == {best}


def test_an_empty_plan_gives_an_empty_result(runner: ModelRunner) -> None:
    assert runner.execute(Plan()).sampled == ()
