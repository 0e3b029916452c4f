"""A model's files: where they are, and whether this server can serve them.

Everything that can be refused by reading ``config.json`` and the file names is refused here, before
torch is imported or a byte of the weights is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_sessions.errors import ConfigError
from vlm_sessions.model.supported import VISION_TOWERS, check_text_model, check_vision_tower

if TYPE_CHECKING:  # it imports torch
    from vlm_sessions.model.tiles import Tiling

# Model classes of transformers -> their ``model_type``.
ARCHITECTURES: Mapping[str, str] = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
}

# Those that cut a picture into tiles.
TILED = frozenset({"llava_next", "llava_onevision"})

_SHARD = re.compile(r"[\w][\w.-]*\.safetensors")

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A local checkpoint directory that has been looked at, but not loaded."""

    path: Path
    name: str
    """The hub id, or the directory's name."""
    architecture: str
    """One of ``ARCHITECTURES``."""
    image_token_id: int
    image_size: int
    """Side of the square that the vision tower sees, in pixels."""
    num_tile_tokens: int
    """Features of one such square."""
    tiling: Tiling | None
    """How pictures are cut into such squares; ``None``: each is one, whatever its size."""
    max_context: int
    """Positions of the text model."""

    def num_image_tokens(self, width: int, height: int) -> int:
        """Features of a picture of this size in pixels, and so its placeholders.

        Raises:
            InvalidImage: it is too elongated for this model's tiles.
        """
        if self.tiling is None:
            return self.num_tile_tokens
        return self.tiling.num_tokens(width, height)


def open_checkpoint(
    model: str | Path, *, name: str | None = None, one_tile: bool = False
) -> Checkpoint:
    """Find a checkpoint and check that it can be served.

    Args:
        model: a directory, or the id of a repository on the hub, which is then downloaded.
        name: what to call the model; by default the hub id or the directory's name.
        one_tile: show it pictures as a whole only, if it would cut them into tiles.

    Raises:
        ConfigError: it cannot be found, read or served; the message says why and what would do.
    """
    path = Path(model)
    if not path.is_dir():
        path = _download(str(model))
    raw = _read_json(path / "config.json")
    architecture = _find_architecture(raw, path)
    _check_weights(path)
    name = name or (path.resolve().name if Path(model).is_dir() else str(model))
    checkpoint = _describe(path, name, architecture)
    return _show_wholes(checkpoint) if one_tile and checkpoint.tiling is not None else checkpoint


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


def _find_architecture(raw: Mapping[str, object], path: Path) -> str:
    named = raw.get("architectures")
    architectures = [str(a) for a in named] if isinstance(named, list) else []
    for architecture, model_type in ARCHITECTURES.items():
        if architecture in architectures:
            return architecture
        if not architectures and raw.get("model_type") == model_type:
            return architecture
    found = architectures or [str(raw.get("model_type", "unknown"))]
    raise ConfigError(
        f"{path} is a {', '.join(found)}; supported are {', '.join(ARCHITECTURES)} "
        "(LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision and models of their shapes)."
    )


def _check_weights(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ConfigError(f"{index} holds no weight_map.")
        names = {str(name) for name in weight_map.values()}
        foreign = sorted(name for name in names if not _SHARD.fullmatch(name))
        if foreign:  # transformers would read them as what they are: pickles
            raise ConfigError(
                f"{index} names {foreign[0]!r}, which is no .safetensors file beside it; nothing "
                "else is loaded."
            )
        missing = sorted(name for name in names if not (path / name).is_file())
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


def _describe(path: Path, name: str, architecture: str) -> Checkpoint:
    config = _read_config(path, architecture)
    text, vision = config.text_config, config.vision_config
    check_text_model(text, path)
    check_vision_tower(vision, path)
    if config.image_token_id >= text.vocab_size:
        raise ConfigError(
            f"The image token {config.image_token_id} of {path} is outside its vocabulary "
            f"of {text.vocab_size}."
        )
    grid = vision.image_size // vision.patch_size
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    num_tile_tokens = grid * grid + VISION_TOWERS[vision.model_type] - dropped
    return Checkpoint(
        path=path,
        name=name,
        architecture=architecture,
        image_token_id=int(config.image_token_id),
        image_size=int(vision.image_size),
        num_tile_tokens=num_tile_tokens,
        tiling=_find_tiling(config, path, grid=grid, num_tile_tokens=num_tile_tokens),
        max_context=int(text.max_position_embeddings),
    )


def _read_config(path: Path, architecture: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415 - as below
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - imports torch, only now needed

    try:
        return CONFIG_MAPPING[ARCHITECTURES[architecture]].from_pretrained(
            path, local_files_only=True
        )
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"{path / 'config.json'} cannot be understood: {exc}") from exc


def _find_tiling(config: Any, path: Path, *, grid: int, num_tile_tokens: int) -> Tiling | None:
    if config.model_type not in TILED:
        return None
    from vlm_sessions.model.tiles import make_tiling  # noqa: PLC0415 - imports torch

    if num_tile_tokens != grid * grid:
        raise ConfigError(
            f"The vision tower of {path} gives a tile {num_tile_tokens} features, which are no "
            f"square of {grid}: vision_feature_select_strategy must leave out its class token, "
            "if it has one, and nothing else."
        )
    try:
        return make_tiling(
            side=int(config.vision_config.image_size),
            grid=grid,
            resolutions=config.image_grid_pinpoints,
            aspect_ratio=getattr(config, "vision_aspect_ratio", None),
        )
    except ConfigError as exc:
        raise ConfigError(f"{path / 'config.json'}: {exc}") from exc


def _show_wholes(checkpoint: Checkpoint) -> Checkpoint:
    assert checkpoint.tiling is not None
    if checkpoint.tiling.max_pooled_tiles is None:
        raise ConfigError(
            f"VLM_IMAGE_TILES=one: {checkpoint.path} always cuts pictures into tiles. Only "
            "LLaVA-OneVision takes them as a whole."
        )
    return replace(checkpoint, tiling=replace(checkpoint.tiling, whole_only=True))
