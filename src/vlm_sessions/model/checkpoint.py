"""A model's files: where they are, and whether this server can serve them.

Everything that can be refused by reading ``config.json`` and the file names is refused here, before
torch is imported or a byte of the weights is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_sessions.errors import ConfigError

ARCHITECTURE = "LlavaForConditionalGeneration"

# Text models whose attention is plain causal attention over all positions, as ours computes it.
TEXT_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# Vision towers that turn a picture of one fixed size into a fixed number of features,
# -> class tokens that stand before the patches.
VISION_TOWERS: Mapping[str, int] = {"clip_vision_model": 1, "siglip_vision_model": 0}

# Rotary embeddings that rescale with the length of the input: keys computed earlier would be wrong.
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A local checkpoint directory that has been looked at, but not loaded."""

    path: Path
    name: str
    """The hub id, or the directory's name."""
    image_token_id: int
    image_size: int
    """Side of the square that the vision tower sees, in pixels."""
    num_image_tokens: int
    """Features of one image, and so its placeholders."""
    max_context: int
    """Positions of the text model."""


def open_checkpoint(model: str | Path, *, name: str | None = None) -> Checkpoint:
    """Find a checkpoint and check that it can be served.

    Args:
        model: a directory, or the id of a repository on the hub, which is then downloaded.
        name: what to call the model; by default the hub id or the directory's name.

    Raises:
        ConfigError: it cannot be found, read or served; the message says why and what would do.
    """
    path = Path(model)
    if not path.is_dir():
        path = _download(str(model))
    raw = _read_json(path / "config.json")
    _check_architecture(raw, path)
    _check_weights(path)
    return _describe(path, name or (path.resolve().name if Path(model).is_dir() else str(model)))


def _download(model: str) -> Path:
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"There is no directory {model!r} to load a model from.")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - not needed for directories

    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as exc:  # the hub's errors are OSErrors, a malformed id ValueError
        raise ConfigError(
            f"{model!r} is neither a directory nor a model that could be fetched from the hub: "
            f"{str(exc).splitlines()[0]}"
        ) from exc


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{path.parent} holds no {path.name}: it is not a Hugging Face checkpoint."
        ) from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object.")
    return content


def _check_architecture(raw: Mapping[str, object], path: Path) -> None:
    named = raw.get("architectures")
    architectures = [str(a) for a in named] if isinstance(named, list) else []
    found = architectures or [str(raw.get("model_type", "unknown"))]
    if ARCHITECTURE not in architectures and (architectures or raw.get("model_type") != "llava"):
        raise ConfigError(
            f"{path} is a {', '.join(found)}; supported is {ARCHITECTURE} "
            "(LLaVA-1.5 and models of its shape)."
        )


def _check_weights(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ConfigError(f"{index} holds no weight_map.")
        missing = sorted({str(f) for f in weight_map.values() if not (path / str(f)).is_file()})
        if missing:
            raise ConfigError(f"{path} lacks the weight files {', '.join(missing)}.")
    elif not (path / "model.safetensors").is_file():
        pickles = sorted(p.name for p in path.glob("*.bin"))
        if pickles:
            raise ConfigError(
                f"{path} has its weights as pickles only ({', '.join(pickles)}), which can run "
                "code when loaded. Convert them: load the model and call "
                "save_pretrained(…, safe_serialization=True)."
            )
        raise ConfigError(f"{path} holds no weights: model.safetensors is missing.")


def _describe(path: Path, name: str) -> Checkpoint:
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - as below
    from transformers import LlavaConfig  # noqa: PLC0415 - imports torch, only now needed

    try:
        config = LlavaConfig.from_pretrained(path, local_files_only=True)
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"{path / 'config.json'} cannot be understood: {exc}") from exc
    text, vision = config.text_config, config.vision_config
    _check_text_model(text, path)
    _check_vision_tower(vision, path)
    if config.image_token_id >= text.vocab_size:
        raise ConfigError(
            f"The image token {config.image_token_id} of {path} is outside its vocabulary "
            f"of {text.vocab_size}."
        )
    grid = vision.image_size // vision.patch_size
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return Checkpoint(
        path=path,
        name=name,
        image_token_id=int(config.image_token_id),
        image_size=int(vision.image_size),
        num_image_tokens=grid * grid + VISION_TOWERS[vision.model_type] - dropped,
        max_context=int(text.max_position_embeddings),
    )


def _check_text_model(text: Any, path: Path) -> None:
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


def _check_vision_tower(vision: Any, path: Path) -> None:
    if vision.model_type not in VISION_TOWERS:
        raise ConfigError(
            f"The vision tower of {path} is a {vision.model_type}; "
            f"supported are {', '.join(sorted(VISION_TOWERS))}."
        )
    if not isinstance(vision.image_size, int):
        raise ConfigError(f"The vision tower of {path} does not see square images.")
