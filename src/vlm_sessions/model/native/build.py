"""Compiles the kernels, and knows which processor runs which of them:
``python -m vlm_sessions.model.native.build``, or as a script by itself.

A library for each kind of processor of this machine's family, so that an image that is built here
runs at full speed elsewhere. Needs a C compiler with OpenMP (``CC``, else ``cc``), nothing else; a
machine without one goes on with torch's own kernels.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE / "built"
SOURCES = ("linear.c", "attend.c", "glue.c", "decode.c", "screen.c")
FLAGS = (
    *("-std=gnu11", "-O2", "-fvect-cost-model=dynamic", "-fPIC", "-shared", "-fopenmp"),
    # expf sets no errno, and no one asks for floating-point exceptions; numbers stay what they are.
    *("-fno-math-errno", "-fno-trapping-math"),
    "-Werror=return-type",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of processor."""

    name: str
    flags: tuple[str, ...] = ()
    """Of the compiler."""
    needs: frozenset[str] = frozenset()
    """Among the flags of /proc/cpuinfo."""


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AMX = _AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}
_AMX_FLAGS = ("-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8")

VARIANTS: Mapping[str, tuple[Variant, ...]] = {
    "x86_64": (
        Variant("amx", ("-march=x86-64-v4", *_AMX_FLAGS), _AMX),
        Variant("avx512", ("-march=x86-64-v4",), _AVX512),
        Variant("avx2", ("-march=x86-64-v3",), _AVX2),
    ),
    "aarch64": (Variant("neon"),),
}
"""By machine, the best first."""


def variants() -> tuple[Variant, ...]:
    """Those of this machine's family; none where it is not Linux's."""
    return VARIANTS.get(platform.machine(), ()) if sys.platform == "linux" else ()


def library_path(variant: Variant, directory: Path = BUILT) -> Path:
    """Named after the sources too, so that one that was built from others is never loaded."""
    return directory / f"{variant.name}-{sources_digest()}.so"


@cache
def sources_digest() -> str:
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def usable(directory: Path = BUILT) -> tuple[Path, ...]:
    """The libraries that are built from these sources and that this processor can run, the best
    first."""
    flags = processor_flags()
    paths = (library_path(v, directory) for v in variants() if v.needs <= flags)
    return tuple(path for path in paths if path.exists())


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor says of itself; nothing where it does not speak Linux's way."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    said = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(said.partition(":")[2].split())


def kind(path: Path) -> str:
    """The variant's name of a library."""
    return path.stem.partition("-")[0]


def build(compiler: str, variant: Variant, directory: Path) -> None:
    """Compile one library; one that was there is replaced at once, as a whole.

    Raises:
        subprocess.CalledProcessError: the compiler refused; its words are in ``stderr``.
    """
    path = library_path(variant, directory)
    partial = path.with_suffix(".partial")
    sources = [str(HERE / name) for name in SOURCES]
    command = [compiler, *FLAGS, *variant.flags, "-o", str(partial), *sources, "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    partial.rename(path)


def main() -> int:
    """Exit status 1 where nothing could be built, with the reason."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not variants():
        sys.stderr.write(f"There are no kernels in C for {sys.platform}/{platform.machine()}.\n")
        return 1
    if compiler is None:
        sys.stderr.write(
            "There is no C compiler: answers on a CPU will take up to half as long again. "
            "On Debian: apt-get install gcc libc6-dev\n"
        )
        return 1
    BUILT.mkdir(exist_ok=True)
    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(lambda variant: build(compiler, variant, BUILT), variants()))
        except subprocess.CalledProcessError as exc:
            sys.stderr.write(f"{' '.join(exc.cmd)} failed:\n{exc.stderr}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
