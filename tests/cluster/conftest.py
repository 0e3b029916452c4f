"""Three fake replicas behind a router, for each module; a module that needs others says which."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.parts import Fake, Routing, fakes, router


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(3, tmp_path_factory.mktemp("state")) as started:
        yield started


@pytest.fixture(scope="module")
def routing(replicas: list[Fake], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    with router(replicas, tmp_path_factory.mktemp("router")) as running:
        yield running


@pytest.fixture
def http(routing: Routing) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=routing.url, timeout=60) as client:
        yield client
