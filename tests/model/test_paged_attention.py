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
from vlm_sessions.engine.types import (
    BlockCopy,
    Draw,
    ImageSlice,
    ImageSpan,
    PixelImage,
    Plan,
    Sampling,
    TokenSpan,
)
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


def encode(runner: ModelRunner, images: Sequence[PixelImage]) -> None:
    """Put features on the device, and wait for them: they are computed beside the steps."""
    missing = {image.digest: image for image in images}
    plan = Plan(encode=tuple(missing.values()), wait=True)
    while missing:
        for encoded in runner.execute(plan).encoded:
            del missing[encoded.digest]
        plan = Plan(wait=True)


def paged_logits(runner: ModelRunner, spans: Sequence[TokenSpan]) -> torch.Tensor:
    """Logits of every token of a step, not only of those that draw."""
    with torch.inference_mode():
        logits: torch.Tensor = runner._text.logits(runner._forward(spans))
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
        encode(runner, dialogue.pixels)

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


def test_a_long_conversation_decodes_beside_short_ones(
    runner: ModelRunner, tiny_path: Path
) -> None:
    processor, reference = make_processor(tiny_path), Reference(tiny_path)
    spans, expected = [], []
    first_block = 0
    for number, num_repeats in enumerate((1, 40, 2, 1)):
        dialogue = Dialogue(f"c{number}")
        dialogue.ask(processor, "How many cats? " * num_repeats)
        end = len(dialogue.tokens)
        table = tuple(range(first_block, first_block + end // BLOCK_SIZE + 1))
        first_block += len(table)
        runner.execute(Plan(spans=(span(dialogue, table, 0, end - 1),)))
        spans.append(span(dialogue, table, end - 1, end))
        expected.append(reference.logits(dialogue.tokens, [])[-1])
    assert (paged_logits(runner, spans) - torch.stack(expected)).abs().max() < TOLERANCE


def test_what_other_conversations_left_in_the_pool_does_not_matter(
    runner: ModelRunner, tiny_path: Path
) -> None:
    """Not even NaN: an overflow in float16 leaves some, and a weight of 0 does not silence it."""
    processor, reference = make_processor(tiny_path), Reference(tiny_path)
    runner._cache.keys.fill_(float("nan"))
    runner._cache.values.fill_(float("nan"))
    dialogues = [Dialogue("short"), Dialogue("long")]
    dialogues[0].ask(processor, "How many cats?")
    dialogues[1].ask(processor, "How many cats are there? ")
    tables = [tuple(range(2, 22)), tuple(range(22, 42))]
    expected = [reference.logits(dialogue.tokens, []) for dialogue in dialogues]
    for end in range(1, max(len(dialogue.tokens) for dialogue in dialogues) + 1):
        spans, wanted = [], []
        for dialogue, table, logits in zip(dialogues, tables, expected, strict=True):
            if end <= len(dialogue.tokens):
                spans.append(span(dialogue, table, end - 1, end))
                wanted.append(logits[end - 1])
        assert (paged_logits(runner, spans) - torch.stack(wanted)).abs().max() < TOLERANCE


@pytest.mark.parametrize("begins", ["in its beginning", "in its middle", "at its end"])
def test_a_block_copied_in_part_goes_on_as_its_original_would(
    runner: ModelRunner, tiny_path: Path, begins: str
) -> None:
    """Whatever was in both beyond that part: the original goes on otherwise, the copy was NaN."""
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(tiny_path), "What is this? " * 4, [noise_image(1)])
    expected = Reference(tiny_path).logits(dialogue.tokens, dialogue.pixels)
    end = len(dialogue.tokens)
    num_copied = {"in its beginning": 1, "in its middle": 7, "at its end": 15}[begins]
    start = (end // BLOCK_SIZE - 1) * BLOCK_SIZE + num_copied
    full, source, target = tuple(range(start // BLOCK_SIZE)), 50, 51
    spare = tuple(range(60, 63))
    whole = span(dialogue, (*full, source, *spare), 0, end)
    encode(runner, dialogue.pixels)
    runner.execute(Plan(spans=(whole,)))
    runner._cache.keys[:, :, target] = float("nan")
    runner._cache.values[:, :, target] = float("nan")
    runner.execute(Plan(copies=(BlockCopy(source, target, num_copied),)))
    for position in range(start, end):
        one = span(dialogue, (*full, target, *spare), position, position + 1)
        difference = paged_logits(runner, [one]) - expected[position]
        assert difference.abs().max() < TOLERANCE


def test_copies_are_made_one_after_another_and_before_anything_is_written(
    runner: ModelRunner,
) -> None:
    cache = runner._cache
    for block in range(3):
        cache.keys[:, :, block] = cache.values[:, :, block] = block + 1
    copies = (BlockCopy(0, 5, 3), BlockCopy(1, 0, 2), BlockCopy(0, 6, 3), BlockCopy(2, 2, 1))
    runner.execute(Plan(copies=copies))
    for pool in (cache.keys, cache.values):
        numbers = pool[0, 0, :, :, 0]
        assert numbers[5, :3].tolist() == [1] * 3
        assert numbers[0].tolist() == [2] * 2 + [1] * 14
        assert numbers[6, :3].tolist() == [2, 2, 1]
        assert numbers[2, :1].tolist() == [3]


def test_a_span_without_its_image_fails_loudly(runner: ModelRunner, tiny_path: Path) -> None:
    dialogue = Dialogue("c")
    dialogue.ask(make_processor(tiny_path), "What is this?", [noise_image(1)])
    whole = span(dialogue, tuple(range(8)), 0, len(dialogue.tokens))
    with pytest.raises(RuntimeError, match="not on the device"):
        runner.execute(Plan(spans=(whole,)))
    encode(runner, dialogue.pixels)
    runner.execute(Plan(spans=(whole,)))
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
