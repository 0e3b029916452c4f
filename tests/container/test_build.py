"""The build: what it refuses, and how little a change of the code costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.container.conftest import ROOT
from tests.container.image import Image, build

_SMALL_LAYERS = 2
"""Our wheel and the packed model."""


def test_after_a_change_of_the_code_only_the_small_layers_are_built_anew(
    image: Image, tmp_path: Path
) -> None:
    context = copy_context(tmp_path)
    with (context / "src" / "vlm_sessions" / "__init__.py").open("a") as module:
        module.write("# changed\n")
    changed = build(image.engine, context, "vlm-sessions:test-changed", image.build_arguments)
    try:
        layers, kept = changed.layers(), image.layers()
        first_new = next(i for i, layer in enumerate(layers) if layer not in kept)
        assert layers[:first_new] == kept[:first_new]
        assert len(layers) - first_new <= _SMALL_LAYERS
    finally:
        image.engine.run("rmi", changed.name)


def copy_context(directory: Path) -> Path:
    """What the Dockerfile is given of the checkout, as .dockerignore says."""
    context = directory / "context"
    for name in (ROOT / ".dockerignore").read_text().splitlines():
        if name.startswith("!"):
            source, target = ROOT / name[1:], context / name[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, context)
    return context


def test_a_build_of_torch_that_does_not_exist_is_refused(image: Image) -> None:
    with pytest.raises(AssertionError, match="TORCH is auto, cpu or cuda; 'gpu' is none of them"):
        build(image.engine, ROOT, "never", image.build_arguments, "--build-arg", "TORCH=gpu")


def test_the_other_build_of_torch_than_was_asked_for_is_refused_with_what_to_pass() -> None:
    check = ROOT / "scripts" / "image" / "check_torch.py"
    here, other = ("cuda", "cpu") if torch.version.cuda else ("cpu", "cuda")
    for wanted in (here, "auto"):
        subprocess.run([sys.executable, check, wanted], check=True)
    refused = subprocess.run(
        [sys.executable, check, other], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert f"TORCH={other}, and pip's index gave torch {torch.__version__}." in refused.stderr
    assert "--build-arg TORCH_INDEX=" in refused.stderr


def test_a_base_with_an_old_python_is_refused_at_once_with_what_to_take(
    image: Image, tmp_path: Path
) -> None:
    base = next(part for part in image.build_arguments if part.startswith("BASE_IMAGE="))
    old = r"RUN printf '#!/bin/sh\n[ $1 = --version ] && echo Python 3.10.12\n' >/usr/bin/python3"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base.partition('=')[2]}\n{old} && chmod +x /usr/bin/python3\n"
    )
    name = "vlm-sessions:test-old-python"
    image.engine.run("build", "--network=host", "--tag", name, str(tmp_path))
    try:
        with pytest.raises(AssertionError, match=r"BASE_IMAGE has Python 3\.10\.12, and 3\.11 is"):
            build(
                *(image.engine, ROOT, "never", image.build_arguments),
                *("--build-arg", f"BASE_IMAGE={name}"),
            )
    finally:
        image.engine.run("rmi", name)
