"""What the image is built on: debian:bookworm-slim, else its like from this machine's mirror."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.container.engine import Engine

_DEBIAN = "debian:bookworm-slim"
_HOMEMADE = "ci/base:bookworm"
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_PULL_SECONDS = 180.0
_BOOTSTRAP_SECONDS = 600.0
# As Debian's image has it, less what only people read; openjdk installs only where there are these
# directories.
_OPTIONS = [
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--customize-hook=for i in 1 2 3 4 5 6 7 8; do mkdir -p "$1/usr/share/man/man$i"; done',
]


def base_image(engine: Engine, work: Path) -> str:
    """The name of an image to build on. BASE_IMAGE names another one.

    Raises:
        AssertionError: there is none, and none can be made.
    """
    if named := os.environ.get("BASE_IMAGE"):
        return named
    for name in (_DEBIAN, _HOMEMADE):
        if engine.has_image(name):
            return name
    pulled = engine.run("pull", "--quiet", _DEBIAN, check=False, seconds=_PULL_SECONDS)
    if pulled.returncode == 0:
        return _DEBIAN
    assert shutil.which("mmdebstrap"), (
        f"{_DEBIAN} cannot be pulled, nor made without mmdebstrap: {pulled.stderr.strip()}"
    )
    archive = work / "base.tar"
    _bootstrap(archive, work)
    engine.run("import", str(archive), _HOMEMADE)
    archive.unlink()
    return _HOMEMADE


def _bootstrap(archive: Path, work: Path) -> None:
    settings = work / "apt.conf"
    settings.write_text(_apt_settings())
    made = subprocess.run(
        [
            *("mmdebstrap", *_OPTIONS),
            f"--customize-hook=upload {settings} /etc/apt/apt.conf.d/00host",
            *("bookworm", str(archive), *([str(_SOURCES)] if _SOURCES.exists() else [])),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_BOOTSTRAP_SECONDS,
    )
    assert made.returncode == 0, made.stderr[-4000:]


def _apt_settings() -> str:
    """Those of this machine's that reaching its mirror takes: proxies, and how old it may be."""
    said = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    wanted = ("Acquire::Check-", "Acquire::http::Proxy ", "Acquire::https::Proxy ")
    lines = [line for line in said.stdout.splitlines() if line.startswith(wanted)]
    return "".join(f"{line}\n" for line in lines)
