"""Real servers for the tests of this directory, each started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torchserve.server import Server, serving
from vlm_sessions.serve.packaging import Sources, ensure_packed

_STUB = Path(__file__).parent / "stub" / "stub_handler.py"


@pytest.fixture(scope="session")
def stub_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store whose handler is the stub."""
    store, checkpoint = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("checkpoint")
    (checkpoint / "config.json").write_text("{}")  # the stub never reads it
    ensure_packed(store, Sources(handler=_STUB, checkpoint=checkpoint))
    return store


@pytest.fixture(scope="session")
def stub_server(stub_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it was."""
    # Asked with SIGQUIT, Java then also says how many objects of each class live.
    options = "-XX:+PrintClassHistogram"
    with serving(stub_store, tmp_path_factory.mktemp("state"), java_options=options) as server:
        yield server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the real handler and the built-in model."""
    store = tmp_path_factory.mktemp("store")
    ensure_packed(store)
    return store


@pytest.fixture(scope="session")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The product itself; it logs all that it ever does."""
    state = tmp_path_factory.mktemp("state")
    with serving(store, state, threads="1", fetch_allow="127.0.0.1", log_level="debug") as server:
        yield server
