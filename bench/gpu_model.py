"""A model of random weights, made where it will run, and transformers' own way to use it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from bench.llava import llava_config
from bench.shapes import Shape
from demo.tokenizer import EOS, IMAGE, token_ids
from vlm_sessions.config import Settings
from vlm_sessions.model.checkpoint import Checkpoint
from vlm_sessions.model.loader import LoadedModel, choose_device, choose_dtype
from vlm_sessions.model.runner import ModelRunner

FIRST_WORD = 16
"""Token ids from here on are words, of which any may be asked."""


def make_model(shape: Shape, settings: Settings) -> LoadedModel:
    """Random weights, directly on the device: nothing is read or downloaded."""
    device = choose_device(settings)
    dtype = choose_dtype(settings, device)
    torch.manual_seed(0)
    with device, _default_dtype(dtype):
        model: Any = LlavaForConditionalGeneration(llava_config(shape))
    model.eval().requires_grad_(False)
    return LoadedModel(model, device, dtype, frozenset([token_ids()[EOS]]))


def make_random_runner(shape: Shape, settings: Settings, loaded: LoadedModel) -> ModelRunner:
    """The product's runner over it. The model is the runner's from then on."""
    checkpoint = Checkpoint(
        path=Path("random"),
        name=shape.name,
        architecture="LlavaForConditionalGeneration",
        image_token_id=token_ids()[IMAGE],
        image_size=shape.image_size,
        num_tile_tokens=shape.num_image_tokens,
        tiling=None,
        max_context=shape.max_context,
    )
    return ModelRunner(settings, checkpoint, loaded, started=time.monotonic())


def time_generate(
    loaded: LoadedModel, shape: Shape, *, batch: int, prompt: int, answer: int, repeats: int
) -> float:
    """Seconds that ``generate`` takes for whole conversations on one picture each, sent anew.

    Args:
        prompt: tokens of each conversation, its picture's among them.
        answer: tokens that are generated.
    """
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(
        FIRST_WORD, 1000, (batch, prompt - shape.num_image_tokens), generator=generator
    )
    picture = torch.full((batch, shape.num_image_tokens), token_ids()[IMAGE])
    tokens = torch.cat([picture, words], dim=1).to(loaded.device)
    side = shape.image_size
    pixels = torch.rand(batch, 3, side, side, generator=generator).to(loaded.device, loaded.dtype)
    taken = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        with torch.inference_mode():
            answered = loaded.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=pixels,
                do_sample=False,
                min_new_tokens=answer,
                max_new_tokens=answer,
                pad_token_id=0,
            )
        assert answered[0, -1].item() >= 0, "reading a token waits for the device"
        taken.append(time.perf_counter() - started)
    return median(taken[1:])  # the first loads kernels


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
