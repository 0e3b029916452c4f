"""Real servers for the tests of this directory, each started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torchserve.server import Server, serving
from vlm_sessions.serve.packaging import Sources, ensure_packed

_STUB = Path(__file__).parent / "stub" / "stub_handler.py"
_NOTHING = Path(__file__).parent / "stub" / "no-checkpoint"


@pytest.fixture(scope="session")
def stub_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store whose handler is the stub."""
    store = tmp_path_factory.mktemp("store")
    ensure_packed(store, Sources(handler=_STUB, checkpoint=_NOTHING))
    return store


@pytest.fixture(scope="session")
def stub_server(stub_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it was."""
    with serving(stub_store, tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the real handler and the built-in model."""
    store = tmp_path_factory.mktemp("store")
    ensure_packed(store)
    return store


@pytest.fixture(scope="session")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The product itself."""
    state = tmp_path_factory.mktemp("state")
    with serving(store, state, threads="1", fetch_allow="127.0.0.1") as server:
        yield server
