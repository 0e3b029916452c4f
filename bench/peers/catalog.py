"""Which peers there are, where each lives, and how it is installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.process import ROOT, PeerProcess

ENVIRONMENTS = ROOT / ".venv-peers"
"""One environment for each peer that has one of its own; made by ``scripts/need-peers``."""
TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")
"""vLLM's documents advise to preload it; Debian's libtcmalloc-minimal4."""

STUBS = str(Path(__file__).parent / "stubs")


@dataclass(frozen=True, slots=True)
class PeerKind:
    """One way to answer the conversations."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: str | None = None
    """Name of its environment below ``ENVIRONMENTS``; None: this one."""
    old_names: bool = False
    """Reads a checkpoint whose weights have the names that transformers 4 gave them."""
    at_once: bool = True
    """Whether several conversations at once say anything beyond one."""
    keeps_kv: bool = True
    variables: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    """Libraries, relative to the environment."""
    note: str = ""
    """What to know about its figures."""


OURS = PeerKind("vlm-sessions", "bench.peers.ours")
EVERYTHING = PeerKind(
    "transformers, everything each time",
    "bench.peers.baselines",
    ("everything",),
    at_once=False,
    keeps_kv=False,
)
PIXELS = PeerKind(
    "transformers, pixels kept (AWS sample)",
    "bench.peers.baselines",
    ("pixels",),
    at_once=False,
    keeps_kv=False,
)
KV = PeerKind("transformers, KV kept", "bench.peers.baselines", ("kv",))
VLLM = PeerKind(
    "vLLM for CPU",
    "bench.peers.vllm_cpu",
    environment="vllm",
    old_names=True,
    variables={
        "PYTHONPATH": STUBS,
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # one thread, and the process is pinned already
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    },
    preload=("lib/libiomp5.so",),
    note="finds whole blocks of 32 tokens; is spared hashing and decoding a picture that it has",
)
OPENVINO = PeerKind(
    "OpenVINO GenAI",
    "bench.peers.genai",
    environment="openvino",
    variables={"PYTHONPATH": STUBS},
    note="keeps an encoded picture in one chat at a time: of several at once each is encoded anew "
    "with every question, which the rate over all tokens includes",
)

PEERS = (OURS, EVERYTHING, PIXELS, KV, VLLM, OPENVINO)


def missing(kind: PeerKind, environments: Path) -> str | None:
    """How to install a peer that is not there; None: it is."""
    if kind.environment is None or _python(kind, environments).is_file():
        return None
    return f"not installed; scripts/need-peers {kind.environment} installs it"


def start(
    kind: PeerKind, environments: Path, *, kv_cache_mb: int, core: int | None, log: Path
) -> PeerProcess:
    """Start a peer that is installed."""
    environ = {
        **kind.variables,
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_mb // 1024),
        "VLLM_CACHE_ROOT": str(environments / "cache"),
    }
    if kind.environment is not None and kind.preload:
        own = [environments / kind.environment / path for path in kind.preload]
        also = [TCMALLOC] if TCMALLOC.is_file() else []
        environ["LD_PRELOAD"] = ":".join(str(path) for path in (*also, *own))
    command: list[str | Path] = [_python(kind, environments), "-m", kind.module, *kind.arguments]
    return PeerProcess(command, environ=environ, core=core, log=log)


def _python(kind: PeerKind, environments: Path) -> Path:
    if kind.environment is None:
        return Path(sys.executable)
    return environments / kind.environment / "bin" / "python"
