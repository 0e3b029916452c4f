"""Packs handler, its settings and the built-in model with torch-model-archiver.

The result is ``<store>/llava``, a directory in the archiver's ``no-archive`` format: what
TorchServe loads, and what an uncompressed model on S3 looks like. In a checkout it is made anew
when any of its sources has changed; an installation without them, such as an image, brings it along
and names it with ``VLM_MODEL_STORE``. A model named by ``VLM_MODEL`` is not copied: the handler
reads that setting.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve.errors import CannotServe

MODEL_NAME = "llava"
CHECKPOINT = "checkpoint"
"""Name of the directory inside the packed model that holds the built-in checkpoint."""
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Sources:
    """What is packed; ``checkpoint`` may be absent, then ``VLM_MODEL`` must be set."""

    handler: Path = _ROOT / "handlers" / "llava_handler.py"
    config: Path = _ROOT / "handlers" / "llava" / "model-config.yaml"
    checkpoint: Path = _ROOT / "demo" / "model"


def default_store() -> Path:
    """``model_store`` of the checkout, else of the working directory."""
    return (_ROOT if Sources().handler.is_file() else Path.cwd()) / "model_store"


def find_store(settings: Settings) -> Path:
    """The model store that serves: the one that was named, as it is, else the default, packed.

    Raises:
        CannotServe: there is neither a packed model nor anything to pack, or packing failed.
    """
    if settings.model_store is not None:
        _check_packed(settings.model_store)
        return settings.model_store
    store = default_store()
    ensure_packed(store)
    return store


def ensure_packed(store: Path, sources: Sources | None = None) -> bool:
    """Pack into ``store`` unless what is there was packed from just these sources.

    A packed store that cannot be written, or whose sources are not here, is taken as it is.

    Returns:
        Whether anything had to be done.

    Raises:
        CannotServe: there is neither a packed model nor anything to pack, or packing failed.
    """
    sources = sources or Sources()
    if not sources.handler.is_file() or (_is_packed(store) and not os.access(store, os.W_OK)):
        _check_packed(store)
        return False
    target = store / MODEL_NAME
    stamp = store / f".{MODEL_NAME}.digest"
    try:
        digest = _digest(sources)
        store.mkdir(parents=True, exist_ok=True)
        with _locked(store):  # two services of one checkout may be started at once
            if _is_packed(store) and stamp.is_file() and stamp.read_text() == digest:
                return False
            with tempfile.TemporaryDirectory(dir=store, prefix=".packing-") as work:
                packed = _pack(Path(work), sources)
                shutil.rmtree(target, ignore_errors=True)
                packed.rename(target)
            stamp.write_text(digest)
    except OSError as exc:
        raise CannotServe(
            f"The model cannot be packed into {store}: {exc.strerror or exc}. Make it writable, or "
            "set VLM_MODEL_STORE to a directory that holds a packed model."
        ) from exc
    return True


def _is_packed(store: Path) -> bool:
    return (store / MODEL_NAME / "MAR-INF" / "MANIFEST.json").is_file()


def _check_packed(store: Path) -> None:
    if not _is_packed(store):
        raise CannotServe(
            f"There is no packed model in {store}. Run it in a checkout, or set VLM_MODEL_STORE to "
            "a directory that holds one."
        )


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    """One at a time packs into ``store``. The kernel's lock: it ends with who holds it."""
    lock = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _pack(work: Path, sources: Sources) -> Path:
    extra: list[str] = []
    if sources.checkpoint.is_dir():
        # The archiver copies what is in a directory, not the directory.
        shutil.copytree(sources.checkpoint, work / "extra" / CHECKPOINT)
        extra = ["--extra-files", str(work / "extra")]
    command = [
        *(sys.executable, "-m", "model_archiver.model_packaging"),
        *("--model-name", MODEL_NAME, "--version", "1.0"),
        *("--handler", str(sources.handler), "--config-file", str(sources.config)),
        *("--archive-format", "no-archive", "--export-path", str(work), "--force"),
        *extra,
    ]
    # It gathers the model in a directory of a fixed name, which it empties first: in the one for
    # temporary files two packings at once would take each other's files, or somebody's own.
    gathering = work / "gathering"
    gathering.mkdir()
    environ = os.environ | {"TMPDIR": str(gathering)}
    packing = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    packed = work / MODEL_NAME
    if packing.returncode or not packed.is_dir():
        raise CannotServe(f"torch-model-archiver failed: {packing.stderr.strip()[-500:]}")
    return packed


def _digest(sources: Sources) -> str:
    """Of every source file's name and content."""
    files = [sources.handler, sources.config]
    files += sorted(path for path in sources.checkpoint.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
