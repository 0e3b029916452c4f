"""--dry-run shows what would be done. Neither docker nor AWS is there, and nothing is missed."""

from __future__ import annotations

import shlex
from itertools import pairwise

import pytest

from tests.release.checkout import VERSION, Checkout

ECR = ["--region", "eu-west-1", "--account", "123456789012"]
HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
REGISTRY = ["--registry", "127.0.0.1:5000"]


def build_of(commands: list[str]) -> list[str]:
    (build,) = (shlex.split(command) for command in commands if " build " in command)
    return build


def test_ecr_is_prepared_before_the_build_and_then_all_tags_are_pushed(checkout: Checkout) -> None:
    commit = checkout.commit_id()

    ended = checkout.run("--dry-run", *ECR)

    assert ended.stdout == f"{HOST}/vlm-sessions:{VERSION}\n"
    create, login, build, *pushes = ended.commands
    assert create.startswith("aws ecr --region eu-west-1 create-repository")
    assert login == (
        "aws ecr get-login-password --region eu-west-1 | "
        f"docker login --username AWS --password-stdin {HOST}"
    )
    assert build.startswith("env DOCKER_BUILDKIT=1 docker build")
    assert pushes == [
        f"docker push {HOST}/vlm-sessions:{VERSION}",
        f"docker push {HOST}/vlm-sessions:{commit}",
    ]


def test_another_registry_is_pushed_to_without_aws(checkout: Checkout) -> None:
    ended = checkout.run("--dry-run", *REGISTRY)

    assert ended.uri == f"127.0.0.1:5000/vlm-sessions:{VERSION}"
    assert not any("aws" in command for command in ended.commands)


def test_chinas_regions_have_a_domain_of_their_own(checkout: Checkout) -> None:
    ended = checkout.run("--dry-run", "--region=cn-north-1", "--account=123456789012")

    assert ended.uri.startswith("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/")


def test_every_choice_reaches_the_build(checkout: Checkout) -> None:
    ended = checkout.run(
        *("--dry-run", *REGISTRY, "--repository", "team/vlm", "--tag=rc1", "--torch=cpu"),
        *("--base-image", "ubuntu:24.04", "--torch-index", "https://index.example/cpu"),
        *("--platform", "linux/arm64", "--build-option", "--secret=id=a,src=b c"),
        *("--build-option", "--no-cache"),
    )

    build = build_of(ended.commands)
    pairs = list(pairwise(build))
    assert ended.uri == "127.0.0.1:5000/team/vlm:rc1"
    assert ("--tag", ended.uri) in pairs
    assert ("--build-arg", "BASE_IMAGE=ubuntu:24.04") in pairs
    assert ("--build-arg", "TORCH=cpu") in pairs
    assert ("--build-arg", "TORCH_INDEX=https://index.example/cpu") in pairs
    assert ("--build-arg", f"VERSION={VERSION}") in pairs
    assert ("--platform", "linux/arm64") in pairs
    assert "--secret=id=a,src=b c" in build
    assert "--no-cache" in build
    assert build[-1] == "."


@pytest.mark.parametrize("change", ["edited", "added"])
def test_what_is_not_committed_bears_neither_the_versions_nor_the_commits_name(
    checkout: Checkout, change: str
) -> None:
    commit = checkout.commit_id()
    name = {"edited": "greeting", "added": "another"}[change]
    (checkout.path / name).write_text("not committed\n")

    ended = checkout.run("--dry-run", *REGISTRY)

    assert "Not all is committed" in ended.stderr
    assert ended.uri == f"127.0.0.1:5000/vlm-sessions:{VERSION}-dirty"
    assert ended.commands[-1] == f"docker push 127.0.0.1:5000/vlm-sessions:{commit}-dirty"
    assert f"REVISION={commit}-dirty" in build_of(ended.commands)


def test_without_a_repository_of_git_there_is_no_tag_for_the_commit(checkout: Checkout) -> None:
    (checkout.path / ".git").rename(checkout.path.parent / "elsewhere")

    ended = checkout.run("--dry-run", *REGISTRY)

    assert "There is no tag for the commit. git says: fatal: not a git repository" in ended.stderr
    assert ended.commands[1:] == [f"docker push 127.0.0.1:5000/vlm-sessions:{VERSION}"]


BUILDX = """
case "$*" in
  "buildx version") echo v0.{minor}.0 ;;
  "buildx build --help") echo "Usage: docker buildx build {options}" ;;
  *) exit 1 ;;
esac
"""


def test_buildx_makes_a_plain_manifest_which_sagemaker_demands(checkout: Checkout) -> None:
    checkout.install_script("docker", BUILDX.format(minor=10, options="--provenance --sbom"))

    build = build_of(checkout.run("--dry-run", *REGISTRY).commands)

    assert build[2:5] == ["docker", "buildx", "build"]
    assert {"--load", "--provenance=false", "--sbom=false"} < set(build)


def test_a_buildx_that_makes_no_attestations_is_not_told_to_leave_them(checkout: Checkout) -> None:
    checkout.install_script("docker", BUILDX.format(minor=8, options="--load"))

    build = build_of(checkout.run("--dry-run", *REGISTRY).commands)

    assert build[2:6] == ["docker", "buildx", "build", "--load"]
    assert not any("provenance" in word or "sbom" in word for word in build)
