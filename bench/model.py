"""Builds a LLaVA checkpoint of random weights: ``python -m bench.model --shape 221m --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import models
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from bench.llava import llava_config
from bench.shapes import SHAPES, Shape
from demo.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    PAD,
    SPECIAL,
    UNK,
    build_tokenizer,
    token_ids,
)


def build_checkpoint(shape: Shape, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write an ordinary Hugging Face checkpoint; the same shape gives the same weights."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(llava_config(shape)).to(dtype)
    ids = token_ids()
    with torch.no_grad():
        # Never the likeliest token: an answer shows a word for every token that it has.
        model.lm_head.weight[: len(SPECIAL)] = 0
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD]
    )
    model.save_pretrained(folder)
    _processor(shape).save_pretrained(folder)


def extra_words(shape: Shape) -> list[str]:
    """Words beside the demo's own that fill up the vocabulary: every one is a token."""
    return [f"w{number}" for number in range(shape.vocab_size - len(token_ids()))]


def _processor(shape: Shape) -> LlavaProcessor:
    side = {"height": shape.image_size, "width": shape.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": shape.image_size}, crop_size=side
        ),
        tokenizer=_tokenizer(shape),
        patch_size=shape.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """The demo's, with a word for every id that the model can say: each token is a piece of text,
    so that a client sees each one come."""
    tokenizer = build_tokenizer()
    vocabulary = token_ids() | {
        word: number for number, word in enumerate(extra_words(shape), start=len(token_ids()))
    }
    tokenizer.backend_tokenizer.model = models.WordLevel(vocabulary, unk_token=UNK)
    return tokenizer


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    bfloat16: Annotated[bool, typer.Option(help="Weights of half the size.")] = False,
) -> None:
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    build_checkpoint(SHAPES[shape], out, dtype=dtype)


if __name__ == "__main__":
    typer.run(main)
