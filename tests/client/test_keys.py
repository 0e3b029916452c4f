"""A service that asks for keys, and clients who have one, have another, or have none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.product import Gate, serve_product
from tests.support.keys import add_client
from tests.support.pictures import encoded
from vlm_sessions.access.key_file import read_keys
from vlm_sessions.access.keys import read_lines
from vlm_sessions.cli.app import app
from vlm_sessions.client import AsyncClient, Client, InvalidKey, NotAuthorized, SessionEnded


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def keys(key_file: Path) -> dict[str, str]:
    return {name: add_client(key_file, name) for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def url(
    keys: dict[str, str], key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    state = tmp_path_factory.mktemp("state")
    with serve_product(state, Gate(), api_keys_file=key_file) as url:
        yield url


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlm_sessions.cli", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )


def test_a_client_with_a_key_is_served_on_every_road(url: str, keys: dict[str, str]) -> None:
    with Client(url, api_key=keys["alice"]) as client, client.open() as session:
        whole = session.ask("What?", max_new_tokens=4).text
        assert "".join(session.fork().stream("What?", max_new_tokens=4))
        assert client.generate("What?", max_new_tokens=4).text
        assert [turn.answer for turn in session.describe().turns] == [whole]


async def test_so_is_an_asynchronous_one(url: str, keys: dict[str, str]) -> None:
    async with (
        AsyncClient(url, api_key=keys["alice"]) as client,
        client.open() as session,
    ):
        assert (await session.ask("What?", max_new_tokens=4)).text
        assert [piece async for piece in session.stream("And now?", max_new_tokens=4)]


@pytest.mark.parametrize("key", [None, "vlm-wrong"])
def test_without_a_key_or_with_a_wrong_one_a_client_is_told_so(url: str, key: str | None) -> None:
    with Client(url, api_key=key) as client:
        with pytest.raises(NotAuthorized, match="401 unauthorized"):
            client.open()
        with pytest.raises(NotAuthorized):
            next(client.stream("What?"))


def test_anothers_session_is_one_that_is_not_there(url: str, keys: dict[str, str]) -> None:
    with Client(url, api_key=keys["alice"]) as alice, Client(url, api_key=keys["bob"]) as bob:
        session = alice.open()
        stolen = bob.open()
        stolen._opened = session._opened
        for use in (stolen.describe, stolen.cancel, stolen.fork, lambda: stolen.ask("What?")):
            with pytest.raises(SessionEnded) as refused:
                use()
            assert refused.value.code == "session_not_found"
        assert session.describe().turns == ()


@pytest.mark.parametrize("key", ["vlm-a\nX-Injected: b", "vlm a", "vlm-é", "vlm-a\0"])
def test_what_cannot_be_a_key_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        Client(api_key=key)
    assert "vlm" not in refused.value.message
    with pytest.raises(InvalidKey):
        AsyncClient(api_key=key)


def test_the_command_line_takes_its_key_from_the_environment_or_an_option(
    url: str, keys: dict[str, str], tmp_path: Path
) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(encoded())
    ask = ("ask", str(picture), "What?", "--url", url, "--max-new-tokens", "4")
    answered = run(*ask, VLM_API_KEY=keys["alice"])
    assert answered.returncode == 0, answered.stderr
    refused = run(*ask, "--api-key", keys["alice"] + "x", VLM_API_KEY=keys["alice"])
    assert refused.returncode == 1
    assert "401 unauthorized" in refused.stderr
    assert keys["alice"] not in refused.stderr


def test_the_clients_variable_beside_the_services_settings_is_no_misspelt_one(
    tmp_path: Path,
) -> None:
    ran = run("serve", VLM_API_KEY="x", VLM_API_KEYS_FILE=str(tmp_path / "none"))
    assert "VLM_API_KEY is not a setting" not in ran.stderr
    assert f"VLM_API_KEYS_FILE: {tmp_path / 'none'} cannot be read" in ran.stderr
    assert ran.returncode == 1


def test_the_command_line_makes_a_key_and_shows_it_once() -> None:
    ran = CliRunner().invoke(app, ["keys", "new", "alice"])
    assert ran.exit_code == 0
    _, key, _, line = ran.stdout.splitlines()
    assert read_lines(line).owner_of(key) == "alice"


def test_the_command_line_adds_a_key_to_a_file_and_prints_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_to = ["--add-to", str(path)]
    made = [CliRunner().invoke(app, ["keys", "new", n, *add_to]).stdout.strip() for n in "ab"]
    assert [read_keys(path).owner_of(key) for key in made] == ["a", "b"]
    path.chmod(0o666)
    refused = CliRunner().invoke(app, ["keys", "new", "c", *add_to])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith(f"chmod go-w {path}\n")


def test_the_command_line_makes_no_key_for_what_is_no_name() -> None:
    refused = CliRunner().invoke(app, ["keys", "new", "a b"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "is not a client's name" in refused.stderr
