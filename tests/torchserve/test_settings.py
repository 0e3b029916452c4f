"""What `vlm-sessions serve` makes of its settings before it starts anything."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.keys import add_client
from tests.torchserve.server import free_port
from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, run
from vlm_sessions.serve.address import bind_address, reachable_url
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.greeting import ready_line
from vlm_sessions.serve.keys import with_keys_found
from vlm_sessions.serve.main import find_tools
from vlm_sessions.serve.model import with_model_found
from vlm_sessions.serve.run_dir import RunDir


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "models" / "mine"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


@pytest.mark.parametrize(
    ("host", "bound", "url"),
    [
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("::", "[::]:8080", "http://[::1]:8080"),
        ("[::1]", "[::1]:8080", "http://[::1]:8080"),
        ("localhost", "localhost:8080", "http://localhost:8080"),
    ],
)
def test_the_ready_line_names_an_address_that_can_be_reached(
    host: str, bound: str, url: str
) -> None:
    settings = Settings(host=host)
    assert bind_address(settings) == bound
    assert reachable_url(settings) == url
    line = ready_line(reachable_url(settings))
    assert shlex.split(line.partition("try: ")[2])[:2] == ["curl", f"{url}/invocations"]


def test_the_ready_line_says_where_a_key_belongs() -> None:
    (line, open_line) = (ready_line("http://x:1", asks_for_key=asks) for asks in (True, False))
    words = shlex.split(line.partition("try: ")[2])
    assert words[2:4] == ["-H", "Authorization: Bearer $VLM_API_KEY"]
    assert "Bearer" not in open_line


def test_a_file_of_keys_is_found_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_client(tmp_path / "keys", "alice")
    monkeypatch.chdir(tmp_path)
    found = with_keys_found(Settings(api_keys_file=Path("keys")))
    assert found.api_keys_file == tmp_path / "keys"
    assert with_keys_found(Settings()) == Settings()
    (tmp_path / "keys").chmod(0o666)
    with pytest.raises(CannotServe, match="chmod go-w"):
        with_keys_found(Settings(api_keys_file=Path("keys")))


def test_haproxy_understands_an_ipv6_address() -> None:
    run_dir = RunDir.make()
    try:
        config = edge.write_config(run_dir, Settings(host="::1"))
        edge.check_config(find_tools().haproxy, config)
    finally:
        run_dir.remove()


def test_haproxy_starts_where_few_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on some hosts of containers.
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    settings, run_dir = Settings(port=free_port()), RunDir.make()
    try:
        config = edge.write_config(run_dir, settings)
        command = edge.command(find_tools().haproxy, config)
        haproxy = subprocess.Popen(["bash", "-c", 'ulimit -n 4096; exec "$@"', "bash", *command])
        try:
            assert asyncio.run(edge.wait_listening(settings))
        finally:
            haproxy.kill()
            haproxy.wait()
    finally:
        run_dir.remove()


def test_a_model_named_from_where_the_command_is_given_is_found_from_anywhere(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parents[1])
    found = with_model_found(Settings(model="models/mine"), Path("unused"))
    assert found.model == str(checkpoint)
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert with_model_found(Settings(model="~/mine"), Path("unused")).model == str(checkpoint)


def test_a_name_that_is_no_directory_is_left_to_the_hub(tmp_path: Path) -> None:
    settings = Settings(model="llava-hf/llava-1.5-7b-hf")
    assert with_model_found(settings, tmp_path) == settings


@pytest.mark.parametrize("model", ["/absent", "../absent", "~/absent", "a/b/c"])
def test_a_directory_that_is_not_there_is_named_at_once(
    model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(Settings(port=free_port(), model=model), Path("unused")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"VLM_MODEL={model}: there is no such directory" in line


def test_a_directory_without_a_checkpoint_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=r"without config\.json"):
        with_model_found(Settings(model=str(tmp_path)), tmp_path)


def test_a_store_without_the_built_in_model_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=r"built-in model is missing.*VLM_MODEL"):
        with_model_found(Settings(), tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a packed checkpoint."""
    packed = tmp_path / "store" / "llava" / "checkpoint"
    packed.mkdir(parents=True)
    (packed / "config.json").write_text("{}")
    return tmp_path / "store"


@pytest.mark.parametrize("layout", [".", "checkpoint"])
def test_a_model_that_sagemaker_brings_is_served_unless_another_is_named(
    store: Path, checkpoint: Path, tmp_path: Path, layout: str
) -> None:
    artifacts = tmp_path / "artifacts"
    brought = artifacts / layout
    brought.mkdir(parents=True)
    (brought / "config.json").write_text("{}")
    assert with_model_found(Settings(), store, artifacts).model == str(brought)
    named = Settings(model=str(checkpoint))
    assert with_model_found(named, store, artifacts).model == str(checkpoint)


def test_the_built_in_model_serves_where_sagemaker_brings_none(store: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    assert with_model_found(Settings(), store, artifacts).model is None
    artifacts.mkdir()
    assert with_model_found(Settings(), store, artifacts).model is None


def test_something_else_where_sagemaker_brings_a_model_is_refused(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.tar.gz").write_bytes(b"packed")
    assert run(Settings(port=free_port()), store, artifacts=tmp_path) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{tmp_path} holds neither config.json nor checkpoint/config.json" in line
    assert "VLM_MODEL" in line


def test_a_directory_for_temporary_files_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(CannotServe, match=r"Not a directory.*--tmpfs /tmp.*TMPDIR"):
        RunDir.make()


@pytest.mark.parametrize(
    ("setting", "value", "exit_code", "told"),
    [
        ("VLM_MAX_SESSION", "5", 2, "VLM_MAX_SESSION is not a setting. Did you mean VLM_MAX_SESSI"),
        ("VLM_PORT", "70000", 2, "VLM_PORT: Input should be less than or equal to 65535"),
        ("VLM_STATE_DIR", "/proc/x", 1, "The state directory /proc/x cannot be used"),
        ("VLM_MODEL_STORE", "/nowhere", 1, "There is no packed model in /nowhere"),
        ("VLM_MODEL", "/nowhere", 1, "VLM_MODEL=/nowhere: there is no such directory"),
    ],
)
def test_a_setting_that_cannot_be_served_with_is_one_line_and_an_exit_code(
    setting: str, value: str, exit_code: int, told: str
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VLM_")}
    served = subprocess.run(
        [sys.executable, "-m", "vlm_sessions.cli", "serve"],
        env={**environ, "VLM_PORT": str(free_port()), setting: value},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert served.returncode == exit_code
    (line,) = served.stderr.splitlines()
    assert told in line


def test_a_host_that_is_no_address_of_this_machine_is_one_clear_line() -> None:
    with pytest.raises(CannotServe, match=re.escape("VLM_HOST")):
        edge.check_port("192.0.2.1", 8080)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CannotServe):
        edge.check_port("127.0.0.1", taken.getsockname()[1])
