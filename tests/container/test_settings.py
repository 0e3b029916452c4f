"""What the container is told by environment variables and mounts, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.container.conftest import ROOT
from tests.container.container import SMALL, Container, serving, starting
from tests.container.image import Image
from tests.container.talk import ANSWER, QUESTION, SESSION, Chat, open_session

_STATE = "/var/lib/vlm-sessions"
_PORT = 8123
_SAGEMAKER = {
    "SAGEMAKER_BIND_TO_PORT": str(_PORT),
    "SAGEMAKER_SESSIONS_EXPIRATION": "600",
    "SAGEMAKER_SESSIONS_PATH": "/tmp/sessions",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1",
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "40",
}


@pytest.fixture(scope="module")
def on_sagemaker(image: Image) -> Iterator[Container]:
    """A container as SageMaker runs it: as root, with its own names of settings and its mount."""
    artifacts = ("--volume", f"{ROOT / 'demo' / 'model'}:/opt/ml/model:ro")
    options = ("--user", "0", "--health-interval", "1s", *artifacts)
    with serving(image, *options, environ=_SAGEMAKER, port=_PORT) as container:
        yield container


def test_sagemakers_names_are_honoured(on_sagemaker: Container) -> None:
    opened = open_session(on_sagemaker.url)
    expires = datetime.fromisoformat(opened.headers[SESSION].partition("Expires=")[2])
    assert 540 < (expires - datetime.now(UTC)).total_seconds() < 660
    over = httpx.post(on_sagemaker.url + "/invocations", content=b"x" * (2**20 + 1), timeout=30)
    assert (over.status_code, over.json()["error"]["code"]) == (413, "payload_too_large")
    on_sagemaker.execute("test", "-s", "/tmp/sessions/journal.sqlite3")
    assert '"operation"' not in on_sagemaker.logs(), "level 40: errors only"
    on_sagemaker.wait(lambda: on_sagemaker.health() == "healthy", 30)


def test_the_model_in_sagemakers_directory_is_served_as_root(on_sagemaker: Container) -> None:
    assert on_sagemaker.execute("id", "-u").stdout.strip() == "0"
    assert "loading /opt/ml/model" in on_sagemaker.logs()
    assert Chat(on_sagemaker.url).ask(QUESTION) == ANSWER


def test_a_port_in_use_is_refused_with_what_to_do(image: Image, on_sagemaker: Container) -> None:
    network = f"container:{on_sagemaker.identity}"
    with starting(image, environ={**SMALL, **_SAGEMAKER}, network=network) as second:
        assert second.wait_ended() == 1
        assert f"Cannot listen on 0.0.0.0:{_PORT}: Address already in use." in second.logs()
        assert "VLM_PORT" in second.logs()
    assert Chat(on_sagemaker.url).ask(QUESTION) == ANSWER


def test_an_unknown_setting_is_refused_with_the_nearest_name(image: Image) -> None:
    with starting(image, environ={"VLM_MAX_SESSION": "5"}) as container:
        assert container.wait_ended() != 0
        assert container.logs().strip().splitlines() == [
            "vlm-sessions: VLM_MAX_SESSION is not a setting. Did you mean VLM_MAX_SESSIONS?"
        ]


@pytest.mark.parametrize(
    ("access", "reason"), [("ro", "Read-only file system"), ("rw", "Permission denied")]
)
def test_a_state_directory_that_cannot_be_written_is_refused_with_what_to_do(
    image: Image, tmp_path: Path, access: str, reason: str
) -> None:
    tmp_path.chmod(0o755)
    with starting(image, "--volume", f"{tmp_path}:{_STATE}:{access}", environ=SMALL) as container:
        assert container.wait_ended() == 1
        (line,) = container.logs().strip().splitlines()
        assert f"{_STATE} cannot be used: {reason}" in line
        assert "uid 10001" in line


def test_any_command_of_the_product_can_be_run(image: Image) -> None:
    said = image.engine.run("run", "--rm", "--network=none", image.name, "doctor")
    assert "This machine can serve" in said.stdout


def test_a_directory_for_sagemakers_model_without_a_checkpoint_is_refused(
    image: Image, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("not a model")
    with starting(image, "--volume", f"{tmp_path}:/opt/ml/model:ro") as container:
        assert container.wait_ended() == 1
        assert "/opt/ml/model holds neither config.json" in container.logs()
