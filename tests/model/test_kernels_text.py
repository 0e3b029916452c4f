"""Our own decoder gives what transformers' code gives, for every text model that may be loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from vlm_sessions.config import Settings
from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.flat import FlatAttention
from vlm_sessions.model.attention.interface import AttentionBackend
from vlm_sessions.model.attention.piece_kernels import choose_piece_kernel
from vlm_sessions.model.attention.reference import ReferenceAttention
from vlm_sessions.model.attention.runs import RunAttention
from vlm_sessions.model.kernels import choose_kernels
from vlm_sessions.model.kv_cache import KVCache, KVShape
from vlm_sessions.model.loader import LoadedModel
from vlm_sessions.model.native.library import load_library
from vlm_sessions.model.supported import TEXT_MODELS
from vlm_sessions.model.text.fused import FusedTextModel, why_not_fused
from vlm_sessions.model.text.interface import TextModel
from vlm_sessions.model.text.linear import make_linear
from vlm_sessions.model.text.reference import ReferenceTextModel

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(num_key_value_heads=4, **SIZES),
    "llama_gqa": lambda: LlamaConfig(num_key_value_heads=2, **SIZES),
    "llama_in_one_call": lambda: LlamaConfig(num_key_value_heads=2, head_dim=32, **SIZES),
    "llama_in_one_call_with_biases": lambda: LlamaConfig(
        attention_bias=True, mlp_bias=True, head_dim=64, **SIZES
    ),
    "llama_with_biases": lambda: LlamaConfig(attention_bias=True, mlp_bias=True, **SIZES),
    "llama_of_odd_sizes": lambda: LlamaConfig(**{**SIZES, "vocab_size": 151, "head_dim": 10}),
    "llama3_positions": lambda: LlamaConfig(rope_parameters=LLAMA3, **SIZES),
    "yarn_positions": lambda: LlamaConfig(rope_parameters=YARN, **SIZES),
    "linear_positions": lambda: LlamaConfig(rope_parameters=LINEAR, **SIZES),
    "tied": lambda: LlamaConfig(tie_word_embeddings=True, **SIZES),
    "mistral": lambda: MistralConfig(num_key_value_heads=1, sliding_window=None, **SIZES),
    "qwen2_with_biases": lambda: Qwen2Config(num_key_value_heads=2, **SIZES),
    "qwen3_with_head_norms": lambda: Qwen3Config(num_key_value_heads=2, head_dim=32, **SIZES),
}


def make_model(text: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Random in every weight, norms and biases too."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=8,
    )
    tied = bool(text.tie_word_embeddings)
    config = LlavaConfig(vision_config=vision, text_config=text, tie_word_embeddings=tied)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.normal_(std=0.3).add_(0.5)
    return model.eval().requires_grad_(requires_grad=False).to(dtype)


def kv_shape(model: Any) -> KVShape:
    text = model.config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return KVShape(text.num_hidden_layers, text.num_key_value_heads, head_dim, model.dtype)


def steps(text: TextModel, shape: KVShape, kernels: str) -> list[torch.Tensor]:
    """Logits of a prompt of many tokens, then of a few, of several conversations and of one."""
    cache = KVCache(shape, num_blocks=40, block_size=16, device=CPU)
    scale = shape.head_dim**-0.5
    chosen = choose_attention(cache, kernels, scale)
    plans = [
        [TokenSpan("a", tuple(range(100)), 0, tuple(range(10)))],
        [TokenSpan("b", tuple(range(30, 50)), 0, tuple(range(20, 24)))],
        [
            TokenSpan("a", (7,), 100, tuple(range(10))),
            TokenSpan("b", (8, 9, 10), 20, tuple(range(20, 24))),
        ],
        [TokenSpan("a", (11,), 101, tuple(range(10)))],
    ]
    logits = []
    with torch.inference_mode():
        for spans in plans:
            tokens = torch.tensor([token for span in spans for token in span.tokens])
            embeds = text.embed(tokens)
            before = embeds.clone()
            logits.append(text.logits(text.forward(embeds, chosen.plan(spans))))
            assert torch.equal(embeds, before)
    return logits


def choose_attention(cache: KVCache, kernels: str, scale: float) -> AttentionBackend:
    if kernels == "reference":
        return ReferenceAttention(cache, scale=scale)
    library, head_dim = load_library(), cache.keys.shape[-1]
    by_runs = RunAttention(
        cache, choose_piece_kernel(cache.keys.dtype, head_dim, library), scale=scale
    )
    if library is None or not library.attends(cache.keys.dtype, head_dim):
        return by_runs
    return FlatAttention(library, cache, by_runs, scale=scale)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_gives_the_logits_of_transformers(name: str) -> None:
    model = make_model(CONFIGS[name]())
    assert why_not_fused(model) is None
    # The reference runs on after its weights were joined: they are the same memory.
    fused = steps(FusedTextModel(model, load_library()), kv_shape(model), "auto")
    reference = steps(ReferenceTextModel(model), kv_shape(model), "reference")
    untouched = steps(ReferenceTextModel(make_model(CONFIGS[name]())), kv_shape(model), "reference")
    for ours, theirs, original in zip(fused, reference, untouched, strict=True):
        assert original.std() > 0.1
        assert (ours - original).abs().max() < 1e-4
        assert (theirs - original).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama_in_one_call", "llama_in_one_call_with_biases"])
def test_all_layers_in_one_call_give_the_bits_of_one_after_another(
    name: str, dtype: torch.dtype
) -> None:
    library, model = load_library(), make_model(CONFIGS[name](), dtype)
    if library is None:
        pytest.skip("the kernels in C are not built")
    text, shape = FusedTextModel(model, library), kv_shape(model)
    together = steps(text, shape, "auto")
    assert text._native_layers is not None
    text._native_layers = None
    for ours, expected in zip(together, steps(text, shape, "auto"), strict=True):
        assert torch.equal(ours, expected)


def test_every_text_model_that_may_be_loaded_is_tried_here() -> None:
    assert {config().model_type for config in CONFIGS.values()} == TEXT_MODELS


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2_with_biases", "qwen3_with_head_norms"])
def test_bfloat16_stays_as_close_as_its_digits_allow(name: str) -> None:
    model = make_model(CONFIGS[name](), torch.bfloat16)
    exact = steps(
        ReferenceTextModel(make_model(CONFIGS[name]())),
        KVShape(3, 2, kv_shape(model).head_dim, torch.float32),
        "reference",
    )
    plain = steps(
        ReferenceTextModel(make_model(CONFIGS[name](), torch.bfloat16)),
        kv_shape(model),
        "reference",
    )
    ours = steps(FusedTextModel(model, load_library()), kv_shape(model), "auto")
    for fused, theirs, true in zip(ours, plain, exact, strict=True):
        assert (fused - true).abs().mean() < 1.5 * (theirs - true).abs().mean() + 1e-3


def test_joined_weights_take_the_place_of_those_they_were_made_of() -> None:
    model = make_model(CONFIGS["llama"]())
    attention = model.model.language_model.layers[0].self_attn
    FusedTextModel(model)
    storages = {
        projection.weight.untyped_storage().data_ptr()
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    }
    assert len(storages) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 2, 8, 14, 15, 19, 32, 64, 65, 100])
@pytest.mark.parametrize("out_features", [32, 96, 100, 512])
def test_a_product_is_the_same_for_any_number_of_rows(
    out_features: int, num_rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(out_features, 48, dtype=dtype), torch.randn(out_features).to(dtype)
    rows = torch.randn(num_rows, 48, dtype=dtype)
    for added in (None, bias):
        product = make_linear(weight, added)(rows)
        expected = functional.linear(rows.double(), weight.double(), None)
        expected = expected if added is None else expected + added.double()
        assert product.shape == (num_rows, out_features)
        assert product.is_contiguous()
        tolerance = 1e-4 if dtype is torch.float32 else 0.2
        assert (product.double() - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}, "part of each head"),
    ],
)
def test_a_text_model_that_is_not_understood_runs_on_transformers_code(
    change: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = make_model(LlamaConfig(**SIZES, **change))
    loaded = LoadedModel(model, CPU, torch.float32, frozenset())
    assert isinstance(choose_kernels(Settings(), loaded).text, ReferenceTextModel)
    assert reason in caplog.text


def test_the_setting_chooses() -> None:
    for kernels, text, attention in (
        ("auto", FusedTextModel, RunAttention),
        ("reference", ReferenceTextModel, ReferenceAttention),
    ):
        model = make_model(CONFIGS["llama"]())
        loaded = LoadedModel(model, CPU, torch.float32, frozenset())
        chosen = choose_kernels(Settings.model_validate({"kernels": kernels}), loaded)
        cache = KVCache(chosen.kv_shape, num_blocks=2, block_size=16, device=CPU)
        assert isinstance(chosen.text, text)
        assert isinstance(chosen.make_attention(cache), attention)
