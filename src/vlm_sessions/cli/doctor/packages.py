"""Python and its packages."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from vlm_sessions.cli.doctor.finding import Finding, State

OLDEST_PYTHON = (3, 11)
TRANSFORMERS = ((5, 18), (6, 0))
"""From this version, below that one."""
INSTALL = 'pip install "vlm-sessions[server]"'
TORCH_SECONDS = 120.0

# In a process of its own: a broken or slow torch must not take the doctor with it.
PROBE_TORCH = """
import json, torch
gpu = torch.cuda.is_available()
name = torch.cuda.get_device_name(0) if gpu else ""
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "", "device": name}))
"""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """``cuda`` is the version it was built for, ``device`` the first GPU's name; empty: none."""

    version: str
    cuda: str
    device: str


def python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", State.MISSING, found, "Install Python 3.11 or newer.")
    return Finding("Python", State.GOOD, found)


def torch(wanted_device: str) -> Finding:
    """The build of torch and what it can use. ``wanted_device`` is the setting ``device``."""
    try:
        build = probe_torch()
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        found = "not installed" if _version("torch") is None else f"does not import: {_reason(exc)}"
        return Finding("torch", State.MISSING, found, f"{INSTALL}; README, Choosing torch's build.")
    if build.device:
        return Finding("torch", State.GOOD, f"{build.version}, {build.device}")
    if wanted_device == "cuda":
        remedy = (
            "The driver shows no GPU: see nvidia-smi."
            if build.cuda
            else "Install torch's CUDA build: README, Choosing torch's build."
        )
        return Finding("torch", State.MISSING, f"{build.version}, no GPU", remedy)
    return Finding("torch", State.GOOD, f"{build.version}, on the CPU")


def transformers() -> Finding:
    version = _version("transformers")
    if version is None:
        return Finding("transformers", State.MISSING, "not installed", INSTALL)
    lowest, below = TRANSFORMERS
    if not lowest <= _numbers(version) < below:
        remedy = f'pip install "transformers>={_dotted(lowest)},<{_dotted(below)}"'
        return Finding("transformers", State.MISSING, version, remedy)
    return Finding("transformers", State.GOOD, version)


def torchserve() -> Finding:
    versions = {name: _version(name) for name in ("torchserve", "torch-model-archiver")}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        found = f"{', '.join(missing)} not installed"
        return Finding("TorchServe", State.MISSING, found, INSTALL)
    return Finding("TorchServe", State.GOOD, str(versions["torchserve"]))


def probe_torch() -> TorchBuild:
    """Ask a fresh Python.

    Raises:
        SubprocessError: torch does not import, or not in time.
        ValueError: it said something else.
    """
    probe = subprocess.run(
        [sys.executable, "-c", PROBE_TORCH],
        capture_output=True,
        text=True,
        check=True,
        timeout=TORCH_SECONDS,
    )
    return TorchBuild(**json.loads(probe.stdout.splitlines()[-1]))


def _reason(exc: Exception) -> str:
    lines = (
        exc.stderr.strip().splitlines() if isinstance(exc, subprocess.CalledProcessError) else []
    )
    return lines[-1] if lines else str(exc)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(str(number) for number in numbers)
