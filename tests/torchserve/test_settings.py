"""What `vlm-sessions serve` makes of its settings before it starts anything."""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from tests.torchserve.server import free_port
from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, run
from vlm_sessions.serve.address import bind_address, reachable_url
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.greeting import ready_line
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


def test_a_host_that_is_no_address_of_this_machine_is_one_clear_line() -> None:
    with pytest.raises(CannotServe, match=re.escape("VLM_HOST")):
        edge.check_port("192.0.2.1", 8080)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CannotServe):
        edge.check_port("127.0.0.1", taken.getsockname()[1])
