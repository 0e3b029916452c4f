"""The model: CLIP vision tower, two-layer projector, Llama text model, under two million weights.

96 x 96 pixels in patches of 12 are 64 image tokens; every cell of the world's grid has about
seven of them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from demo.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    CONTEXT_LENGTH,
    EOS,
    IMAGE,
    PAD,
    build_tokenizer,
    token_ids,
)

IMAGE_SIZE = 96  # pixels
PATCH_SIZE = 12  # pixels
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
PIXEL_MEAN, PIXEL_STD = 0.6, 0.3


def build_config() -> LlavaConfig:
    ids = token_ids()
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="gelu_pytorch_tanh",
    )
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # patches without the class token
        image_seq_length=NUM_PATCHES,
        tie_word_embeddings=False,
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A model with random weights, float32; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    # a text layer begins by adding nothing, and words begin far apart from each other
    text = model.model.language_model
    for layer in text.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    nn.init.normal_(text.embed_tokens.weight, std=0.5)
    nn.init.zeros_(model.lm_head.weight)
    ids = token_ids()
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD], max_new_tokens=96
    )
    return model


def build_image_processor() -> CLIPImageProcessorPil:
    """Squeezes a picture of any size into the square, so that no corner of it is cut off."""
    return CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def build_processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" then drops
        chat_template=CHAT_TEMPLATE,
    )


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes an ordinary Hugging Face checkpoint, float32."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
