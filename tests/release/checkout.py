"""A checkout with the real build_and_push.sh, a small Dockerfile, and a shell to run it in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = "build_and_push.sh"
VERSION = "1.2.3"
# What the script itself needs; docker and aws are put beside them by the tests that have them.
TOOLS = ("bash", "cat", "date", "dirname", "env", "git", "id", "sed", "tr")
TIMEOUT_SECONDS = 300.0

DOCKERFILE = """
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
ARG TORCH=auto
ARG TORCH_INDEX=
COPY greeting /greeting
CMD ["cat", "/greeting"]
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.version=${VERSION} \\
      org.opencontainers.image.revision=${REVISION} \\
      org.opencontainers.image.created=${CREATED} \\
      torch=${TORCH} torch-index=${TORCH_INDEX}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of the script ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def uri(self) -> str:
        """The last line, of a run that must have succeeded."""
        assert self.code == 0, self.stderr
        return self.stdout.splitlines()[-1]

    @property
    def commands(self) -> list[str]:
        """The commands that it showed, in order."""
        return [line[2:] for line in self.stderr.splitlines() if line.startswith("+ ")]


@dataclass
class Checkout:
    """``bin`` is the whole PATH of what is run in it; ``environ`` all that it has besides."""

    path: Path
    bin: Path
    environ: dict[str, str]

    @classmethod
    def of_project(cls, directory: Path) -> Checkout:
        """This very checkout, with nothing on PATH but what the script is written in."""
        checkout = cls(PROJECT, directory / "bin", {"HOME": str(directory)})
        checkout.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is missing"
            checkout.install(tool, Path(found))
        return checkout

    @classmethod
    def make(cls, directory: Path) -> Checkout:
        """One commit of a version and of something small to build."""
        checkout = cls.of_project(directory)
        checkout.path = directory / "checkout"
        package = checkout.path / "src" / "vlm_sessions"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'"""A package."""\n\n__version__ = "{VERSION}"\n')
        (checkout.path / "Dockerfile").write_text(DOCKERFILE)
        (checkout.path / "greeting").write_text("hello\n")
        shutil.copy2(PROJECT / SCRIPT, checkout.path)
        checkout.commit()
        return checkout

    def install(self, name: str, program: Path) -> None:
        """Put a program on PATH."""
        (self.bin / name).symlink_to(program)

    def install_script(self, name: str, text: str) -> None:
        """Put a few lines of shell on PATH, in place of a program."""
        script = self.bin / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)

    def commit(self) -> None:
        """Commit all of it."""
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "A commit"]):
            assert self._call(["git", *command], {}).code == 0

    def commit_id(self) -> str:
        """The commit's first twelve digits."""
        return self._call(["git", "rev-parse", "--short=12", "HEAD"], {}).stdout.strip()

    def run(self, *arguments: str, **environ: str) -> Ended:
        """Run the script from another directory than its own."""
        return self._call([str(self.path / SCRIPT), *arguments], environ, cwd=self.bin)

    def _call(
        self, command: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None
    ) -> Ended:
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env={"PATH": str(self.bin), **self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        return Ended(done.returncode, done.stdout, done.stderr)
