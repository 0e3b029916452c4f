"""The image under test: how it is built here, and what it says of itself."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.container.engine import Engine

BUILD_SECONDS = 1500.0
_BASE = "BASE_IMAGE="


@dataclass(frozen=True, slots=True)
class Image:
    """A built image. ``build_arguments`` are those that this machine's builds take."""

    engine: Engine
    name: str
    build_arguments: tuple[str, ...]

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.output("image", "inspect", self.name))
        return dict(found)

    @property
    def base(self) -> str:
        """The name of the image that it is built on."""
        (base,) = (part for part in self.build_arguments if part.startswith(_BASE))
        return base.removeprefix(_BASE)

    def layers(self) -> list[str]:
        """Digests, from the base upwards."""
        return list(self.inspect()["RootFS"]["Layers"])


def build_arguments(base: str, secrets: list[str]) -> tuple[str, ...]:
    """What `docker build` needs here. IMAGE_ARGS adds more, such as ``--build-arg TORCH=cpu``."""
    return (
        *("--network=host", "--build-arg", f"{_BASE}{base}", *secrets),
        *shlex.split(os.environ.get("IMAGE_ARGS", "")),
    )


def build(
    engine: Engine, context: Path, name: str, arguments: tuple[str, ...], *more: str
) -> Image:
    """Build the image of the tree at ``context``.

    Raises:
        AssertionError: it failed; the message ends as the build's output does.
    """
    command = ["build", "--progress=plain", "--tag", name, *arguments, *more, str(context)]
    engine.run(*command, seconds=BUILD_SECONDS)
    return Image(engine, name, arguments)
