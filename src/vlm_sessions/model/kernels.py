"""Which kernels run: the one place that decides for a device, a model and the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vlm_sessions.config import Settings
from vlm_sessions.model.activation import fuse_activations
from vlm_sessions.model.attention.flat import FlatAttention
from vlm_sessions.model.attention.gpu import choose_paged_kernel
from vlm_sessions.model.attention.interface import AttentionBackend
from vlm_sessions.model.attention.paged import PagedAttention
from vlm_sessions.model.attention.paged_call import PagedKernel
from vlm_sessions.model.attention.piece_kernels import choose_piece_kernel
from vlm_sessions.model.attention.reference import ReferenceAttention
from vlm_sessions.model.attention.runs import RunAttention
from vlm_sessions.model.kv_cache import KVCache, KVShape, Layout
from vlm_sessions.model.kv_scales import measure_scales
from vlm_sessions.model.loader import LoadedModel
from vlm_sessions.model.native.library import Library, load_library
from vlm_sessions.model.text.fused import FusedTextModel, head_dim, why_not_fused
from vlm_sessions.model.text.graphs import (
    NUM_SCRATCH_BLOCKS,
    Capture,
    CudaCapture,
    GraphedTextModel,
)
from vlm_sessions.model.text.interface import TextModel
from vlm_sessions.model.text.reference import ReferenceTextModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """A text model, and how it attends."""

    text: TextModel
    kv_shape: KVShape
    kv_layout: Layout
    make_attention: Callable[[KVCache], AttentionBackend]
    """Over a cache of this shape and layout."""
    num_scratch_blocks: int = 0
    """Blocks at the end of the cache that no conversation may use."""
    kv_scales: torch.Tensor | None = None
    """Of a cache that holds other numbers than the model computes."""
    is_asynchronous: bool = False
    """Whether the device computes while the host goes on."""
    num_added_bytes: int = 0
    """Of what is kept beside the checkpoint's weights."""


def choose_kernels(settings: Settings, loaded: LoadedModel) -> Kernels:
    """Take over a loaded model's text half, and the activation of its vision tower."""
    library = _library(settings, loaded)
    if library is not None:
        fuse_activations(loaded.model.model.vision_tower, library)
    text = _text_model(settings, loaded, library)
    kv_shape, kv_scales = _storage(settings, loaded, text)
    plain = Kernels(
        text,
        kv_shape,
        Layout.HEADS_FIRST,
        _reference_attention(kv_shape),
        kv_scales=kv_scales,
        num_added_bytes=text.num_added_bytes if isinstance(text, FusedTextModel) else 0,
    )
    if settings.kernels == "reference":
        return plain
    if loaded.device.type == "cuda" and (kernel := _paged_kernel(settings, loaded, kv_shape)):
        capture = CudaCapture() if settings.cuda_graphs else None
        return paged_kernels(settings, loaded, plain, kernel=kernel, capture=capture)
    if loaded.device.type == "cpu" and kv_scales is None:
        return replace(plain, make_attention=_run_attention(loaded, kv_shape, library))
    return plain


def _text_model(settings: Settings, loaded: LoadedModel, library: Library | None) -> TextModel:
    if settings.kernels == "reference":
        return ReferenceTextModel(loaded.model)
    reason = why_not_fused(loaded.model)
    if reason is None:
        return FusedTextModel(loaded.model, library)
    logger.info("The text model runs on transformers' own code: %s.", reason)
    return ReferenceTextModel(loaded.model)


def _library(settings: Settings, loaded: LoadedModel) -> Library | None:
    """The kernels in C, where they are of use."""
    if loaded.device.type != "cpu" or settings.kernels != "auto":
        return None
    library = load_library()
    if library is None:
        logger.info(
            "The kernels in C are not built; torch's own run. vlm-sessions doctor says more."
        )
    return library


def _reference_attention(kv_shape: KVShape) -> Callable[[KVCache], AttentionBackend]:
    return lambda cache: ReferenceAttention(cache, scale=kv_shape.head_dim**-0.5)


def _run_attention(
    loaded: LoadedModel, kv_shape: KVShape, library: Library | None
) -> Callable[[KVCache], AttentionBackend]:
    kernel = choose_piece_kernel(loaded.dtype, kv_shape.head_dim, library)
    scale = kv_shape.head_dim**-0.5

    def make(cache: KVCache) -> AttentionBackend:
        by_runs = RunAttention(cache, kernel, scale=scale)
        if library is None or not library.attends(loaded.dtype, kv_shape.head_dim):
            return by_runs
        return FlatAttention(library, cache, by_runs, scale=scale)

    return make


def paged_kernels(
    settings: Settings,
    loaded: LoadedModel,
    plain: Kernels,
    *,
    kernel: PagedKernel,
    capture: Capture | None,
) -> Kernels:
    """Attention by a paged kernel, decoding by graphs if there is a way to capture them."""
    text = plain.text
    if capture is not None:
        positions = int(loaded.model.config.text_config.max_position_embeddings)
        largest = settings.max_running
        text = GraphedTextModel(text, capture, largest=largest, max_context=positions)
    scale = plain.kv_shape.head_dim**-0.5
    return replace(
        plain,
        text=text,
        kv_layout=Layout.TOKENS_FIRST,
        make_attention=lambda cache: PagedAttention(cache, kernel, scale=scale),
        num_scratch_blocks=0 if capture is None else NUM_SCRATCH_BLOCKS,
        is_asynchronous=True,
    )


def _storage(
    settings: Settings, loaded: LoadedModel, text: TextModel
) -> tuple[KVShape, torch.Tensor | None]:
    """How keys and values are held, and their scales if that is in 8 bits."""
    shape = _kv_shape(loaded)
    if settings.kv_dtype == "auto":
        return shape, None
    vocab_size = int(loaded.model.config.text_config.vocab_size)
    scales = measure_scales(
        text, shape, _reference_attention(shape), vocab_size=vocab_size, device=loaded.device
    )
    return replace(shape, dtype=torch.float8_e4m3fn), scales


def _paged_kernel(settings: Settings, loaded: LoadedModel, kv_shape: KVShape) -> PagedKernel | None:
    return choose_paged_kernel(
        settings,
        kv_shape,
        num_heads=int(loaded.model.config.text_config.num_attention_heads),
        dtype=loaded.dtype,
        device=loaded.device,
    )


def _kv_shape(loaded: LoadedModel) -> KVShape:
    text = loaded.model.config.text_config
    num_kv_heads = text.num_key_value_heads
    return KVShape(text.num_hidden_layers, num_kv_heads, head_dim(text), loaded.dtype)
