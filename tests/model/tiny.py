"""Tiny LLaVA checkpoints with random weights, saved as any Hugging Face checkpoint is.

They speak nonsense, but varied nonsense that depends on every token and pixel before it, which is
all that exactness needs. The three kinds differ where checkpoints differ: tokenizer, template,
beginning of text, vision tower, key heads, tied weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

CORPUS = [
    "USER: What is this? ASSISTANT: This is a cat on a mat, and there is a dog behind it.",
    "How many cats are there? There are two of them, one red and one blue.",
    "You are a helpful assistant. Answer briefly, in your own words.",
    "Is the big circle left of the small square? Yes, it is.",
]
IMAGE_SIZE, PATCH_SIZE = 32, 8  # 16 patches
MAX_CONTEXT = 1024

# Writes <s> itself; an answer ends with </s>; the system text stands bare before the first turn.
BOS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'USER: ' }}{% elif m['role'] == 'assistant' %}"
    "{{ 'ASSISTANT:' }}{% endif %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>\n' }}{% endif %}"
    "{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# LLaVA-1.5's own (llava-hf/llava-1.5-7b-hf): no <s>, which its tokenizer adds, and no </s>.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# ChatML with a system text of its own when none is given, as Qwen's.
CHATML_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """What one tiny checkpoint is made of."""

    name: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    template: str
    num_kv_heads: int
    text: type
    vision: str
    tied: bool = False


def byte_level_bpe(eos: str = "</s>", extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """GPT-2's way: bytes as the alphabet. Most characters beyond ASCII are several tokens."""
    specials = ["<pad>", "<s>", eos, "<image>", *extra]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet),
    )
    return _wrap(backend, eos=eos, unk=None)


def sentencepiece_like(learned_from: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Llama's way: spaces as ▁, one put before the text, unknown characters as byte tokens."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # No token spans two words, as in SentencePiece's own training.
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator([*CORPUS, *learned_from], trainers.BpeTrainer(vocab_size=200))
    learned = json.loads(trained.to_str())["model"]
    specials = ["<unk>", "<s>", "</s>"]
    ordered = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    backend = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(ordered)},
            [tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = trained.normalizer
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([*specials, "<image>", "<pad>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return _wrap(backend, eos="</s>", unk="<unk>")


def chatml_bpe() -> PreTrainedTokenizerFast:
    return byte_level_bpe(eos="<|im_end|>", extra=("<|im_start|>",))


def _wrap(backend: Tokenizer, *, eos: str, unk: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=eos,
        unk_token=unk,
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


PLAIN = Kind("plain", byte_level_bpe, BOS_TEMPLATE, 4, LlamaConfig, "clip")
GQA = Kind("gqa", sentencepiece_like, LLAVA_TEMPLATE, 2, LlamaConfig, "clip")
CHATML = Kind("chatml", chatml_bpe, CHATML_TEMPLATE, 1, Qwen2Config, "siglip", tied=True)
KINDS = (PLAIN, GQA, CHATML)


def save_tiny(path: Path, kind: Kind = PLAIN, *, seed: int = 0) -> Path:
    """Build a checkpoint of a kind in ``path`` and return it."""
    tokenizer = kind.tokenizer()
    model = LlavaForConditionalGeneration(_config(kind, tokenizer))
    randomise(model, tokenizer, seed)
    model.save_pretrained(path)
    _processor(kind, tokenizer).save_pretrained(path)
    return path


def randomise(model: Any, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Give a model weights by which its answers vary, and the tokenizer's special tokens."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or "newline" in name:  # strong enough for every input to matter
                weight.normal_(std=(0.4 if "embed" in name else 1.0) / weight.shape[-1] ** 0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def noise_image(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """A picture of coloured noise, ``size`` in pixels (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _config(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    vision_sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    vision = CLIPVisionConfig if kind.vision == "clip" else SiglipVisionConfig
    text = kind.text(
        # As real ones: more than there are tokens, in a size that suits kernels.
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kind.num_kv_heads,
        max_position_embeddings=MAX_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=kind.tied,
    )
    return LlavaConfig(
        vision_config=vision(**vision_sizes),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2 if kind.vision == "clip" else -1,
        vision_feature_select_strategy="default" if kind.vision == "clip" else "full",
        tie_word_embeddings=kind.tied,
    )


def _processor(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    clip = kind.vision == "clip"
    images = (
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side)
        if clip
        else SiglipImageProcessorPil(size=side)
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default" if clip else "full",
        num_additional_image_tokens=1 if clip else 0,
        chat_template=kind.template,
    )
