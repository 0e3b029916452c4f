"""Which checkpoint is served: found, and made absolute, before anything slow is started.

    VLM_MODEL, if it is set  ▶  /opt/ml/model, if anything is in it  ▶  the packed built-in model

The worker checks the checkpoint in full, but only once TorchServe and torch are there. What reading
a directory's names can tell is told here at once.
"""

from __future__ import annotations

from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.packaging import CHECKPOINT, MODEL_NAME

CONFIG_FILE = "config.json"
ARTIFACTS = Path("/opt/ml/model")
"""Where SageMaker puts the uncompressed S3 prefix of a model, read-only."""


def with_model_found(settings: Settings, store: Path, artifacts: Path = ARTIFACTS) -> Settings:
    """The settings with their model's directory, if they name one, as an absolute path.

    A relative path is meant from where the command was given, and the worker runs elsewhere. A name
    that is no directory may be a hub id, which only the hub can tell.

    Args:
        store: the model store, whose packed checkpoint serves when nothing else is named.
        artifacts: the directory that serves when the settings name no model and it is not empty.

    Raises:
        CannotServe: there is no such directory, or it holds no checkpoint, or cannot be read.
    """
    try:
        if settings.model is not None:
            return _with_named_model(settings, settings.model)
        checkpoint = checkpoint_in(artifacts)
    except OSError as exc:
        raise CannotServe(
            f"{exc.filename} cannot be read: {exc.strerror}. Make it readable, or let VLM_MODEL "
            "name another checkpoint."
        ) from exc
    if checkpoint is not None:
        return settings.model_copy(update={"model": str(checkpoint.absolute())})
    if not _is_checkpoint(store / MODEL_NAME / CHECKPOINT):
        raise CannotServe(
            "The built-in model is missing (demo/model of the checkout). Set VLM_MODEL to a "
            "checkpoint's directory or hub id."
        )
    return settings


def _with_named_model(settings: Settings, model: str) -> Settings:
    directory = _expanded(model)
    if directory.is_dir():
        if not _is_checkpoint(directory):
            raise CannotServe(
                f"VLM_MODEL={model} is a directory without {CONFIG_FILE}: not a Hugging "
                "Face checkpoint. Name the directory that save_pretrained wrote."
            )
        return settings.model_copy(update={"model": str(directory.absolute())})
    if _is_a_path(model):
        raise CannotServe(
            f"VLM_MODEL={model}: there is no such directory. Name a checkpoint's "
            "directory, or a hub id such as llava-hf/llava-1.5-7b-hf."
        )
    return settings


def checkpoint_in(artifacts: Path) -> Path | None:
    """The checkpoint in SageMaker's directory, plain or packed; ``None``: there is nothing.

    Raises:
        CannotServe: there is something else, which somebody must have meant to be served.
    """
    if not artifacts.is_dir() or not any(artifacts.iterdir()):
        return None
    for candidate in (artifacts, artifacts / CHECKPOINT):
        if _is_checkpoint(candidate):
            return candidate
    raise CannotServe(
        f"{artifacts} holds neither {CONFIG_FILE} nor {CHECKPOINT}/{CONFIG_FILE}: not a Hugging "
        "Face checkpoint. Put the files that save_pretrained wrote there, uncompressed, or set "
        "VLM_MODEL."
    )


def _is_checkpoint(directory: Path) -> bool:
    return (directory / CONFIG_FILE).is_file()


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # the user has no home: then there is no such directory
        return Path(model)


def _is_a_path(model: str) -> bool:
    """Whether this cannot be a hub id, which is a name with one slash at most."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1
