"""Weights to a model that is ready to run: safetensors only, no code from the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode, its weights on their device."""

    model: Any
    """One of ``checkpoint.ARCHITECTURES``; transformers is untyped to us."""
    device: torch.device
    dtype: torch.dtype
    eos_ids: frozenset[int]


def choose_device(settings: Settings) -> torch.device:
    """The device that the settings ask for.

    Raises:
        ConfigError: a CUDA device is asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise ConfigError("VLM_DEVICE=cuda, but torch finds no CUDA device. Use auto or cpu.")
    if settings.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(settings: Settings, device: torch.device) -> torch.dtype:
    """The type of weights and KV: as set, else float32 on a CPU and bfloat16 on CUDA."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    auto = torch.bfloat16 if device.type == "cuda" else torch.float32
    return named.get(settings.dtype, auto)


def load_model(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load a checkpoint's weights.

    Raises:
        ConfigError: the weights cannot be read, or do not belong to the configuration.
    """
    transformers_logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, checkpoint.architecture).from_pretrained(
            checkpoint.path,
            dtype=dtype,
            use_safetensors=True,
            # Else the checkpoint may name another, even one to be fetched from the hub as code.
            attn_implementation="sdpa",
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    # ImportError: it is quantized by a package that is not there.
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, ImportError) as exc:
        raise ConfigError(f"The weights of {checkpoint.path} cannot be loaded: {exc}") from exc
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers fills them with random numbers and only logs it.
        raise ConfigError(
            f"{checkpoint.path} lacks {len(missing)} weights that its config.json asks for, "
            f"{missing[0]} among them."
        )
    model.eval().requires_grad_(False)
    return LoadedModel(model.to(device), device, dtype, _eos_ids(model))


def _eos_ids(model: Any) -> frozenset[int]:
    """End-of-sequence ids, from where ``generate`` takes them, else from the text model."""
    for config in (model.generation_config, model.config, model.config.text_config):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
