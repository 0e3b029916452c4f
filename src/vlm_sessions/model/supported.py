"""Which text models and vision towers can be served, by what their configurations say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_sessions.errors import ConfigError

# Text models whose attention is plain causal attention over all positions, as ours computes it.
TEXT_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# Vision towers that turn a picture of one fixed size into a fixed number of features,
# -> class tokens that stand before the patches.
VISION_TOWERS: Mapping[str, int] = {"clip_vision_model": 1, "siglip_vision_model": 0}

# Rotary embeddings that rescale with the length of the input: keys computed earlier would be wrong.
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


def check_text_model(text: Any, path: Path) -> None:
    """Raises:
    ConfigError: this text model, of the checkpoint in ``path``, would not be computed right.
    """
    if text.model_type not in TEXT_MODELS:
        raise ConfigError(
            f"The text model of {path} is a {text.model_type}; "
            f"supported are {', '.join(sorted(TEXT_MODELS))}."
        )
    window = getattr(text, "sliding_window", None) or text.max_position_embeddings
    if getattr(text, "use_sliding_window", True) and window < text.max_position_embeddings:
        raise ConfigError(
            f"The text model of {path} attends to the last {window} positions only; "
            "supported are models that attend to all."
        )
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type in LENGTH_DEPENDENT_ROPE:
        raise ConfigError(
            f"The text model of {path} has {rope_type} rotary positions, which change with the "
            "length of the input; cached keys would be wrong."
        )


def check_vision_tower(vision: Any, path: Path) -> None:
    """Raises:
    ConfigError: this vision tower, of the checkpoint in ``path``, would not be used right.
    """
    if vision.model_type not in VISION_TOWERS:
        raise ConfigError(
            f"The vision tower of {path} is a {vision.model_type}; "
            f"supported are {', '.join(sorted(VISION_TOWERS))}."
        )
    if not isinstance(vision.image_size, int):
        raise ConfigError(f"The vision tower of {path} does not see square images.")
