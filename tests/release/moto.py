"""AWS for tests: moto's server, and the environment in which the real aws CLI talks to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

AWS = Path(sys.executable).with_name("aws")
"""The real CLI, from the environment that the tests run in."""
REGION = "eu-west-1"
ACCOUNT = "123456789012"
"""Whose credentials all are, as far as moto is concerned."""
PASSWORD = f"{ACCOUNT}-auth-token"
"""What moto's ECR gives as the registry's password."""

# Without these the CLI asks the machine that it runs on, and asks again.
NO_CREDENTIALS = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}


@contextmanager
def serve_aws() -> Iterator[Mapping[str, str]]:
    """A new and empty AWS; gives the environment of a user with credentials."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    httpx.post(f"{url}/moto-api/reset").raise_for_status()  # what is in it outlives its server
    try:
        yield {
            **NO_CREDENTIALS,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
        }
    finally:
        server.stop()


def client(aws: Mapping[str, str], service: str, region: str = REGION) -> Any:
    """boto3's, with the credentials and at the address of ``serve_aws``."""
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )


def repositories(aws: Mapping[str, str], region: str = REGION) -> list[str]:
    """The names of ECR's repositories."""
    ecr = client(aws, "ecr", region)
    return [entry["repositoryName"] for entry in ecr.describe_repositories()["repositories"]]
