"""Tiny checkpoints of the models that cut pictures into tiles, beside those of ``tiny``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from tests.model.tiny import (
    IMAGE_SIZE,
    MAX_CONTEXT,
    PATCH_SIZE,
    byte_level_bpe,
    randomise,
    sentencepiece_like,
)

GRID = IMAGE_SIZE // PATCH_SIZE
SIZES = ((40, 40), (90, 41), (33, 100), (200, 30), (7, 64), (128, 127))
"""Widths and heights: square, wide, tall, a panorama, a splinter, nearly square and large."""

# llava-hf/llava-v1.6-mistral-7b-hf's own: what ends an answer is text, and no special token.
MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'][0]['text'] + '<\\\\s> ' }}{% endif %}{% endfor %}"
)

# llava-hf/llava-onevision-qwen2-7b-ov-hf's own: an answer of the past has a space more before it.
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TiledKind:
    """What one tiny checkpoint is made of."""

    name: str
    resolutions: tuple[tuple[int, int], ...]
    max_pooled_tiles: int = 0
    """0: LLaVA-NeXT, which does not pool."""

    @property
    def is_onevision(self) -> bool:
        return self.max_pooled_tiles > 0


def _sides(*pairs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((height * IMAGE_SIZE, width * IMAGE_SIZE) for height, width in pairs)


NEXT = TiledKind("next", _sides((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))
# Pictures of up to nine tiles, pooled down to two tiles' features.
ONEVISION = TiledKind(
    "onevision", _sides(*((h, w) for h in (1, 2, 3) for w in (1, 2, 3))), max_pooled_tiles=2
)
TILED_KINDS = (NEXT, ONEVISION)


def save_tiny_tiled(path: Path, kind: TiledKind, *, seed: int = 0) -> Path:
    """Build a checkpoint of a kind in ``path`` and return it."""
    tokenizer = (
        byte_level_bpe(eos="<|im_end|>", extra=("<|im_start|>", "<video>"))
        if kind.is_onevision
        else sentencepiece_like(learned_from=[f"{letter}.<" for letter in "abcdefghijklmnop"])
    )
    make = _onevision if kind.is_onevision else _next
    model = make(kind, tokenizer)
    randomise(model, tokenizer, seed)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    _image_processor(kind).save_pretrained(path)
    template = ONEVISION_TEMPLATE if kind.is_onevision else MISTRAL_TEMPLATE
    (path / "chat_template.jinja").write_text(template)
    return path


def their_num_tokens(path: Path, kind: TiledKind, width: int, height: int) -> int:
    """Placeholders that the checkpoint's own Hugging Face processor makes for a picture."""
    images = _image_processor(kind)
    if kind.is_onevision:
        # Made without its __init__, which wants a video processor, and that torchvision.
        onevision = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
        onevision.image_processor = images
        onevision.num_image_tokens = GRID**2
        onevision.vision_aspect_ratio = f"anyres_max_{kind.max_pooled_tiles}"
        return int(onevision._get_number_of_features(height, width, IMAGE_SIZE, IMAGE_SIZE))
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=PreTrainedTokenizerFast.from_pretrained(path),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    count = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
    return int(count["num_image_tokens"][0])


def _next(kind: TiledKind, tokenizer: PreTrainedTokenizerFast) -> Any:
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**_vision()),
            text_config=MistralConfig(
                **_text(tokenizer), num_key_value_heads=2, sliding_window=None
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=[list(pair) for pair in kind.resolutions],
        )
    )


def _onevision(kind: TiledKind, tokenizer: PreTrainedTokenizerFast) -> Any:
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**_vision(), vision_use_head=False),
            text_config=Qwen2Config(**_text(tokenizer), num_key_value_heads=1),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=[list(pair) for pair in kind.resolutions],
            vision_aspect_ratio=f"anyres_max_{kind.max_pooled_tiles}",
        )
    )


def _image_processor(kind: TiledKind) -> Any:
    resolutions = [list(pair) for pair in kind.resolutions]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if kind.is_onevision:
        return LlavaOnevisionImageProcessorPil(size=side, image_grid_pinpoints=resolutions)
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_grid_pinpoints=resolutions
    )


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
