from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.client.product import Gate, serve_product
from vlm_sessions.client import AsyncClient, Client


@pytest.fixture(scope="session")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[str]:
    """A service that all tests of the client share."""
    with serve_product(tmp_path_factory.mktemp("state"), gate) as url:
        yield url


@pytest.fixture(params=["http", "sagemaker"])
def road(request: pytest.FixtureRequest, url: str) -> dict[str, Any]:
    """What a client is made with, to reach the service directly or through SageMaker's API."""
    if request.param == "http":
        return {"url": url}
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}),
    )
    return {"sagemaker_endpoint": "llava", "sagemaker_runtime": runtime}


@pytest.fixture
def make_client(road: dict[str, Any]) -> Callable[[], Client]:
    return lambda: Client(**road)


@pytest.fixture
def make_async_client(road: dict[str, Any]) -> Callable[[], AsyncClient]:
    return lambda: AsyncClient(**road)
