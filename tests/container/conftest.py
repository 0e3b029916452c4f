"""The image, built once, and a container of it that is left as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.container.base_image import base_image
from tests.container.compose import Compose, project_here
from tests.container.container import LOCKED_DOWN, Container, serving
from tests.container.engine import Engine, usable_engine
from tests.container.image import Image, build, build_arguments
from tests.container.own_engine import NoEngine
from tests.container.pip_secrets import pip_secrets

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "demo" / "pictures"
TEST_SECONDS = 240.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Where none can run the tests are skipped, or fail when CI_CONTAINER=required."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(usable_engine(tmp_path_factory.mktemp("engine")))
        except NoEngine as exc:
            if os.environ.get("CI_CONTAINER") == "required":
                pytest.fail(f"CI_CONTAINER=required, and no container engine: {exc}")
            pytest.skip(f"NO CONTAINER WAS BUILT OR RUN: {exc}")
        yield found


@pytest.fixture(scope="session")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of this checkout. Its layers stay in the engine's build cache, for the next run."""
    name = f"vlm-sessions:test-{os.getpid()}"
    work = tmp_path_factory.mktemp("build")
    with pip_secrets(work) as secrets:
        arguments = build_arguments(base_image(engine, work), secrets)
        labels = ("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abcdef")
        yield build(engine, ROOT, name, arguments, *labels)
    engine.run("rmi", name, check=False)


@pytest.fixture(scope="session")
def service(image: Image) -> Iterator[Container]:
    """Locked down, without a network, with pictures to fetch from itself; to be left as it was."""
    pictures = ("--volume", f"{PICTURES}:/pictures:ro")
    health = ("--health-interval", "1s")
    settings = {"VLM_FETCH_ALLOW": "127.0.0.1"}
    with serving(image, *LOCKED_DOWN, *pictures, *health, environ=settings) as container:
        yield container


@pytest.fixture(scope="module")
def project(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """deploy/compose, up and healthy with the image."""
    with project_here(image.engine, image.name, tmp_path_factory.mktemp("compose")) as project:
        yield project
