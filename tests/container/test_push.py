"""Images really pushed: a real docker, a real registry, the real aws CLI before moto's AWS.

Only ECR's host has to be another one, since Amazon's cannot be reached: before ``docker`` stand two
lines that exchange its name for the registry's.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.container.base_image import base_image
from tests.container.container import LOCKED_DOWN, serving
from tests.container.engine import LABEL, Engine
from tests.container.image import Image
from tests.container.registry import Registry, serve_registry
from tests.release.checkout import VERSION, Checkout
from tests.release.moto import ACCOUNT, AWS, PASSWORD, REGION, repositories, serve_aws

ECR_HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ONE_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture(scope="module")
def registry(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serve_registry(tmp_path_factory.mktemp("registry"), "AWS", PASSWORD) as registry:
        yield registry
    names = engine.output("images", "--format={{.Repository}}:{{.Tag}}").split()
    engine.run("rmi", "--force", *(name for name in names if name.startswith(registry.host)))


@pytest.fixture(scope="module")
def build_options(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to build a small image on here."""
    base = base_image(engine, tmp_path_factory.mktemp("base"))
    return ["--base-image", base, "--build-option=--label", f"--build-option={LABEL}"]


@pytest.fixture
def checkout(tmp_path: Path, engine: Engine) -> Checkout:
    """The checkout of a user with docker, and with nobody's passwords."""
    return with_docker(Checkout.make(tmp_path), engine)


@pytest.fixture
def aws() -> Iterator[Mapping[str, str]]:
    with serve_aws() as environ:
        yield environ


def with_docker(checkout: Checkout, engine: Engine) -> Checkout:
    checkout.install("docker", Path(engine.client))
    checkout.environ |= engine.environ
    checkout.environ["DOCKER_CONFIG"] = str(checkout.bin.parent / "docker")
    return checkout


def docker(checkout: Checkout, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["docker", *arguments],
        env={"PATH": str(checkout.bin), **checkout.environ},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pull_anew(checkout: Checkout, uri: str) -> None:
    """Pull an image of which nothing but layers that others share is left here."""
    if identity := docker(checkout, "images", "--quiet", uri).strip():
        docker(checkout, "rmi", "--force", identity)
    docker(checkout, "pull", "--quiet", uri)


def run_pulled(checkout: Checkout, uri: str) -> str:
    """What a small image says."""
    pull_anew(checkout, uri)
    return docker(checkout, "run", "--rm", "--network=none", uri)


def log_in(checkout: Checkout, registry: Registry) -> None:
    options = ["--username", registry.user, "--password-stdin"]
    docker(checkout, "login", *options, registry.host, stdin=registry.password)


def as_ecr(checkout: Checkout, registry: Registry) -> None:
    """Let the registry be reached by the name of ECR's."""
    client = checkout.bin / "docker"
    real = client.readlink()
    client.unlink()
    exchange = f"sed s/{ECR_HOST}/{registry.host}/"
    checkout.install_script(
        "docker",
        f"""
        for word in "$@"; do shift; set -- "$@" "$(echo "$word" | {exchange})"; done
        exec {shlex.quote(str(real))} "$@"
        """,
    )


def test_a_pushed_image_can_be_pulled_and_run_by_both_of_its_tags(
    checkout: Checkout, registry: Registry, build_options: list[str]
) -> None:
    log_in(checkout, registry)

    ended = checkout.run("--registry", registry.host, *build_options)

    commit = checkout.commit_id()
    assert ended.uri == f"{registry.host}/vlm-sessions:{VERSION}"
    assert ended.stdout == f"{ended.uri}\n"
    assert registry.tags("vlm-sessions") == {VERSION, commit}
    assert registry.manifest_type("vlm-sessions", VERSION) == ONE_MANIFEST
    assert run_pulled(checkout, ended.uri) == "hello\n"
    assert run_pulled(checkout, f"{registry.host}/vlm-sessions:{commit}") == "hello\n"


def test_the_image_is_labelled_with_what_it_was_built_from(
    checkout: Checkout, registry: Registry, build_options: list[str]
) -> None:
    log_in(checkout, registry)
    (checkout.path / "greeting").write_text("not committed\n")

    uri = checkout.run(
        *("--registry", registry.host, "--repository", "team/labelled", "--tag", "rc1"),
        *(*build_options, "--torch=cuda", "--build-option=--label=by=me"),
    ).uri

    labels = docker(checkout, "image", "inspect", "-f{{json .Config.Labels}}", uri)
    revision = f"{checkout.commit_id()}-dirty"
    assert uri == f"{registry.host}/team/labelled:rc1"
    assert registry.tags("team/labelled") == {"rc1", revision}
    assert f'"org.opencontainers.image.version":"{VERSION}-dirty"' in labels
    assert f'"org.opencontainers.image.revision":"{revision}"' in labels
    assert '"torch":"cuda"' in labels
    assert '"by":"me"' in labels


def test_a_build_that_fails_is_not_pushed(
    checkout: Checkout, registry: Registry, build_options: list[str]
) -> None:
    log_in(checkout, registry)
    (checkout.path / "greeting").unlink()

    ended = checkout.run(*("--registry", registry.host, "--repository", "broken", *build_options))

    assert ended.code != 0
    assert ended.stdout == ""
    assert not any("push" in command for command in ended.commands)


def test_who_has_not_logged_in_to_a_registry_is_refused_by_it(
    checkout: Checkout, registry: Registry, build_options: list[str]
) -> None:
    ended = checkout.run("--registry", registry.host, *build_options)

    assert ended.code != 0
    assert "no basic auth credentials" in ended.stderr
    assert ended.stdout == ""


def test_ecr_gets_the_repository_and_the_image_and_then_only_the_image(
    checkout: Checkout, registry: Registry, build_options: list[str], aws: Mapping[str, str]
) -> None:
    as_ecr(checkout, registry)
    checkout.install("aws", AWS)
    arguments = ["--region", REGION, "--repository", "ecr/vlm", *build_options]

    first = checkout.run(*arguments, **aws)
    again = checkout.run(*arguments, "--tag", "again", **aws)

    assert first.uri == f"{ECR_HOST}/ecr/vlm:{VERSION}"
    assert again.uri == f"{ECR_HOST}/ecr/vlm:again"
    assert any("create-repository" in command for command in first.commands)
    assert "The repository ecr/vlm exists." in again.stderr
    assert not any("create-repository" in command for command in again.commands)
    assert repositories(aws) == ["ecr/vlm"]
    assert "Login Succeeded" in first.stderr
    assert PASSWORD not in first.stdout + first.stderr
    assert registry.tags("ecr/vlm") == {VERSION, checkout.commit_id(), "again"}
    assert run_pulled(checkout, again.uri) == "hello\n"


@pytest.mark.timeout(900, func_only=True)
def test_the_products_own_image_is_pushed_pulled_back_and_serves(
    tmp_path: Path, registry: Registry, image: Image
) -> None:
    project = with_docker(Checkout.of_project(tmp_path), image.engine)
    log_in(project, registry)
    options = [part for word in image.build_arguments for part in ("--build-option", word)]

    uri = project.run("--registry", registry.host, "--repository", "product", *options).uri

    assert registry.manifest_type("product", uri.rpartition(":")[2]) == ONE_MANIFEST
    pull_anew(project, uri)
    with serving(Image(image.engine, uri, ()), *LOCKED_DOWN) as container:
        reply = container.ping()
    assert reply is not None
    assert reply.status_code == 200


def test_an_ecr_that_does_not_answer_is_told_before_the_build(
    checkout: Checkout, aws: Mapping[str, str]
) -> None:
    checkout.install("aws", AWS)

    ended = checkout.run("--region", REGION, **aws, AWS_ENDPOINT_URL_ECR="http://127.0.0.1:9")

    assert ended.code == 1
    assert "ECR does not tell whether the repository vlm-sessions exists" in ended.stderr
    assert "Could not connect" in ended.stderr
    assert ended.commands == []


def test_a_daemon_that_does_not_answer_is_told_first(checkout: Checkout, tmp_path: Path) -> None:
    ended = checkout.run("--registry", "127.0.0.1:5000", DOCKER_HOST=f"unix://{tmp_path}/nobody")

    assert ended.code == 1
    assert "docker does not reach its daemon" in ended.stderr
    assert "systemctl start docker" in ended.stderr
    assert ended.commands == []
