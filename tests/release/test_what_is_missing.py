"""Whatever is missing is told before anything is done, with how to get it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.release.checkout import Checkout, Ended
from tests.release.moto import ACCOUNT, AWS, NO_CREDENTIALS, REGION

# Needs neither docker nor its daemon, but AWS for the account.
ASKING_AWS = ["--dry-run", "--region", REGION]


def assert_told(ended: Ended, *complaints: str) -> None:
    assert ended.code == 1
    assert ended.stdout == ""
    assert ended.commands == []
    for complaint in complaints:
        assert complaint in ended.stderr


def test_docker_is_missing(checkout: Checkout) -> None:
    ended = checkout.run("--registry", "127.0.0.1:5000")

    assert_told(ended, "docker is missing", "apt-get install docker.io", "docs.docker.com")


def test_a_docker_from_version_23_on_needs_buildx(checkout: Checkout) -> None:
    checkout.install_script(
        "docker",
        """
        case "$1" in
          version) echo 28.2.2 ;;
          *) echo "docker: unknown command: docker $1" >&2; exit 1 ;;
        esac
        """,
    )

    ended = checkout.run("--registry", "127.0.0.1:5000")

    assert_told(ended, "needs buildx", "docker-buildx-plugin")


def test_the_aws_cli_is_missing(checkout: Checkout) -> None:
    assert_told(checkout.run(*ASKING_AWS), "The aws CLI is missing", "--registry HOST")


def test_no_region_is_set(checkout: Checkout) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run("--dry-run", **NO_CREDENTIALS)

    assert_told(ended, "No region is set", "--region", "AWS_REGION", "aws configure")


def test_there_are_no_credentials(checkout: Checkout) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run(*ASKING_AWS, **NO_CREDENTIALS)

    assert_told(ended, "Unable to locate credentials", "aws configure", "AWS_ACCESS_KEY_ID")


def test_a_profile_that_is_not_there(checkout: Checkout) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run(*ASKING_AWS, **NO_CREDENTIALS, AWS_PROFILE="nobody")

    assert_told(ended, "The config profile (nobody) could not be found", "AWS_PROFILE")


def test_aws_cannot_be_reached(checkout: Checkout, aws: Mapping[str, str]) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run(*ASKING_AWS, **{**aws, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    assert_told(ended, "Could not connect to the endpoint URL")


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_account_is_the_credentials_and_the_region_the_environments(
    checkout: Checkout, aws: Mapping[str, str], variable: str
) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run("--dry-run", **aws, **{variable: "eu-north-1"})

    assert ended.uri.startswith(f"{ACCOUNT}.dkr.ecr.eu-north-1.amazonaws.com/vlm-sessions:")


def test_the_region_may_be_the_one_that_the_cli_is_set_to(
    checkout: Checkout, aws: Mapping[str, str]
) -> None:
    checkout.install("aws", AWS)
    config = checkout.bin.parent / ".aws" / "config"
    config.parent.mkdir()
    config.write_text("[default]\nregion = ap-south-1\n")

    ended = checkout.run("--dry-run", "--account", "999999999999", **aws)

    assert ended.uri.startswith("999999999999.dkr.ecr.ap-south-1.amazonaws.com/vlm-sessions:")
