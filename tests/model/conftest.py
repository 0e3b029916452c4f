"""One thread, and each tiny checkpoint built once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.tiny import KINDS, Kind, save_tiny
from tests.model.tiny_tiles import TILED_KINDS, TiledKind, save_tiny_tiled
from vlm_sessions.model.native import build
from vlm_sessions.model.native.library import Library


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=build.usable(), ids=build.kind)
def library(request: pytest.FixtureRequest) -> Library:
    """The kernels in C, each kind that this processor runs; none are built: the test is skipped."""
    return Library(request.param)


@pytest.fixture(scope="session")
def tiny_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind's name -> checkpoint directory."""
    return {kind.name: save_tiny(tmp_path_factory.mktemp(kind.name), kind) for kind in KINDS}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def tiny_path(kind: Kind, tiny_paths: dict[str, Path]) -> Path:
    """The checkpoint of ``kind``."""
    return tiny_paths[kind.name]


@pytest.fixture(scope="session")
def tiled_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind's name -> checkpoint directory."""
    return {k.name: save_tiny_tiled(tmp_path_factory.mktemp(k.name), k) for k in TILED_KINDS}


@pytest.fixture(params=TILED_KINDS, ids=lambda kind: kind.name)
def tiled_kind(request: pytest.FixtureRequest) -> TiledKind:
    chosen: TiledKind = request.param
    return chosen


@pytest.fixture
def tiled_path(tiled_kind: TiledKind, tiled_paths: dict[str, Path]) -> Path:
    """The checkpoint of ``tiled_kind``."""
    return tiled_paths[tiled_kind.name]
