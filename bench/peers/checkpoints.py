"""The one checkpoint that all peers read, in the form that each can read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.model import build_checkpoint
from bench.shapes import Shape

WEIGHTS = "model.safetensors"
# What transformers 5 leaves out of the names of CLIP's weights.
NEW_PREFIX, OLD_PREFIX = "vision_tower.", "vision_tower.vision_model."


@dataclass(frozen=True, slots=True)
class Checkpoints:
    plain: Path
    old_names: Path
    """The same weights under the names that transformers 4 gave them."""


def build_checkpoints(shape: Shape, dtype: str, folder: Path) -> Checkpoints:
    """Write both forms below ``folder``, always at the same paths: peers cache what they compile
    by the path of the model."""
    built = Checkpoints(
        folder / f"{shape.name}-{dtype}", folder / f"{shape.name}-{dtype}-old-names"
    )
    build_checkpoint(shape, built.plain, dtype=getattr(torch, dtype))
    shutil.copytree(built.plain, built.old_names, ignore=lambda *_: [WEIGHTS], dirs_exist_ok=True)
    weights = {
        name.replace(NEW_PREFIX, OLD_PREFIX, 1) if name.startswith(NEW_PREFIX) else name: tensor
        for name, tensor in load_file(built.plain / WEIGHTS).items()
    }
    save_file(weights, built.old_names / WEIGHTS, metadata={"format": "pt"})
    return built
