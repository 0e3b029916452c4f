"""The build: what it refuses, and how little a change of the code costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.container.conftest import ROOT
from tests.container.container import LOCKED_DOWN, serving
from tests.container.image import BUILD_SECONDS, Image, build
from tests.container.talk import ANSWER, QUESTION, Chat

_SMALL_LAYERS = 2
"""Our wheel and the packed model."""
_MULTI_MODELS = "com.amazonaws.sagemaker.capabilities.multi-models"
_OLD_PYTHON = r"""
RUN printf '#!/bin/sh\n[ $1 = --version ] && echo Python 3.10.12\n' >/usr/bin/python3 \
 && chmod +x /usr/bin/python3
"""
# As AWS's images have it: first on PATH a Python that is not Debian's, and variables, a label and
# an entry point that are not ours. Debian's Python, once moved, is no longer Debian's.
_OWN_PYTHON = r"""
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3 python3-venv \
 && mkdir -p /opt/conda/bin /opt/conda/lib \
 && python=$(basename "$(readlink -f /usr/bin/python3)") \
 && mv /usr/bin/$python /opt/conda/bin/ && mv /usr/lib/$python /opt/conda/lib/ \
 && ln -s $python /opt/conda/bin/python3 \
 && rm /usr/bin/python3*
ENV PATH=/opt/conda/bin:$PATH LD_LIBRARY_PATH=/opt/conda/lib:/usr/local/lib TEMP=/tmp \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONIOENCODING=UTF-8 LANG=C.UTF-8
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
ENTRYPOINT ["python", "/usr/local/bin/dockerd-entrypoint.py"]
CMD ["torchserve", "--start"]
"""


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
    refusal = r"BASE_IMAGE has Python 3\.10\.12, and 3\.11 is"
    with (
        base_with(image, _OLD_PYTHON, tmp_path) as base,
        pytest.raises(AssertionError, match=refusal),
    ):
        build(image.engine, ROOT, "never", image.build_arguments, *base)


@pytest.mark.timeout(BUILD_SECONDS, func_only=True)
def test_a_base_that_brings_its_own_python_is_built_on_that_one_and_serves(
    image: Image, tmp_path: Path
) -> None:
    name = "vlm-sessions:test-own-python"
    with base_with(image, _OWN_PYTHON + _OLD_PYTHON, tmp_path) as base:
        built = build(image.engine, ROOT, name, image.build_arguments, *base)
    try:
        with serving(built, *LOCKED_DOWN) as container:
            assert Chat(container.url).ask(QUESTION) == ANSWER
            asked = container.execute("python3", "-c", "import sys; print(sys.base_prefix)")
            assert asked.stdout == "/opt/conda\n"
        config = built.inspect()["Config"]
        assert (config["Entrypoint"], config["Cmd"]) == (["vlm-sessions"], ["serve"])
        assert config["Labels"][_MULTI_MODELS] == "false"
    finally:
        image.engine.run("rmi", name)


@contextmanager
def base_with(image: Image, instructions: str, directory: Path) -> Iterator[tuple[str, str]]:
    """Arguments of a build on the image's own base with something added."""
    name = "vlm-sessions:test-base"
    (directory / "Dockerfile").write_text(f"FROM {image.base}\n{instructions}")
    image.engine.run(
        "build", "--network=host", "--tag", name, str(directory), seconds=BUILD_SECONDS
    )
    try:
        yield "--build-arg", f"BASE_IMAGE={name}"
    finally:
        image.engine.run("rmi", name)
