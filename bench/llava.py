"""A shape as transformers' configuration of a LLaVA."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from bench.shapes import Shape
from demo.tokenizer import BOS, EOS, IMAGE, PAD, token_ids


def llava_config(shape: Shape) -> LlavaConfig:
    ids = token_ids()
    vision = CLIPVisionConfig(
        hidden_size=shape.vision.hidden,
        intermediate_size=shape.vision.intermediate,
        num_hidden_layers=shape.vision.num_layers,
        num_attention_heads=shape.vision.num_heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        projection_dim=shape.vision.hidden,
    )
    text = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.text.hidden,
        intermediate_size=shape.text.intermediate,
        num_hidden_layers=shape.text.num_layers,
        num_attention_heads=shape.text.num_heads,
        num_key_value_heads=shape.text.num_heads,
        max_position_embeddings=shape.max_context,
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=shape.num_image_tokens,
        tie_word_embeddings=False,
    )
