"""Which checkpoint is served: found, and made absolute, before anything slow is started.

The worker checks the checkpoint in full, but only once TorchServe and torch are there. What reading
a directory's names can tell is told here at once.
"""

from __future__ import annotations

from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.packaging import CHECKPOINT, MODEL_NAME

CONFIG_FILE = "config.json"


def with_model_found(settings: Settings, store: Path) -> Settings:
    """The settings with their model's directory, if they name one, as an absolute path.

    A relative path is meant from where the command was given, and the worker runs elsewhere. A name
    that is no directory may be a hub id, which only the hub can tell.

    Args:
        store: the model store, whose packed checkpoint serves when the settings name no model.

    Raises:
        CannotServe: there is no such directory, or it holds no checkpoint.
    """
    if settings.model is None:
        packed = store / MODEL_NAME / CHECKPOINT
        if not (packed / CONFIG_FILE).is_file():
            raise CannotServe(
                "The built-in model is missing (demo/model of the checkout). Set VLM_MODEL to a "
                "checkpoint's directory or hub id."
            )
        return settings
    directory = Path(settings.model).expanduser()
    if directory.is_dir():
        if not (directory / CONFIG_FILE).is_file():
            raise CannotServe(
                f"VLM_MODEL={settings.model} is a directory without {CONFIG_FILE}: not a Hugging "
                "Face checkpoint. Name the directory that save_pretrained wrote."
            )
        return settings.model_copy(update={"model": str(directory.absolute())})
    if _is_a_path(settings.model):
        raise CannotServe(
            f"VLM_MODEL={settings.model}: there is no such directory. Name a checkpoint's "
            "directory, or a hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return settings


def _is_a_path(model: str) -> bool:
    """Whether this cannot be a hub id, which is a name with one slash at most."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1
