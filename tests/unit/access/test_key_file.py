"""The file of keys: guarded, read again when it changes, added to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import Clock
from vlm_sessions.access.key_file import LOOK_SECONDS, KeyFile, add_line, read_keys
from vlm_sessions.access.keys import new_key
from vlm_sessions.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    before = os.umask(0o022)  # where groups may write by default, what tests write would be refused
    yield tmp_path / "keys"
    os.umask(before)


def add(path: Path, name: str) -> str:
    key, line = new_key(name)
    add_line(path, line)
    return key


def test_a_line_that_is_added_is_a_key_and_the_file_its_owners_alone(path: Path) -> None:
    keys = {name: add(path, name) for name in ("alice", "bob")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {name: read_keys(path).owner_of(key) for name, key in keys.items()} == {
        "alice": "alice",
        "bob": "bob",
    }


def test_a_line_is_added_also_after_one_that_lacks_its_end(path: Path) -> None:
    key = add(path, "alice")
    path.write_text(path.read_text().rstrip("\n"))
    other = add(path, "bob")
    assert (read_keys(path).owner_of(key), read_keys(path).owner_of(other)) == ("alice", "bob")


def test_nothing_is_added_to_what_is_no_file_of_keys(path: Path) -> None:
    path.write_text("a letter to somebody")
    with pytest.raises(ConfigError, match="line 1 is not"):
        add(path, "alice")
    assert path.read_text() == "a letter to somebody"
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        add(path.parent / "none" / "keys", "alice")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused_with_what_to_do(path: Path, mode: int) -> None:
    add(path, "alice")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod go-w {path}"):
        KeyFile(path)
    path.chmod(0o444)  # of a secret that is mounted: who reads it learns no key
    assert len(KeyFile(path).keys()) == 1


def test_a_file_that_is_missing_or_unreadable_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(ConfigError, match="vlm-sessions keys new"):
        KeyFile(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        KeyFile(path.parent)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        KeyFile(path)


def test_a_file_without_keys_would_let_nobody_in_and_is_refused(path: Path) -> None:
    path.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="holds no key"):
        KeyFile(path)


def test_a_change_counts_within_a_second_and_a_removed_key_no_longer(path: Path) -> None:
    clock = Clock()
    first = add(path, "alice")
    file = KeyFile(path, clock)
    second = add(path, "bob")
    assert file.keys().owner_of(second) is None, "it has just been looked at"
    clock.advance(LOOK_SECONDS)
    assert file.keys().owner_of(second) == "bob"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "bob" in line))
    clock.advance(LOOK_SECONDS)
    assert (file.keys().owner_of(first), file.keys().owner_of(second)) == (None, "bob")


@pytest.mark.parametrize("slip", ["malformed", "gone", "writable"])
def test_after_a_slip_the_keys_of_before_stay_in_force_until_it_is_put_right(
    path: Path, slip: str
) -> None:
    clock = Clock()
    key = add(path, "alice")
    file, text = KeyFile(path, clock), path.read_text()
    if slip == "malformed":
        path.write_text("half a li")
    elif slip == "gone":
        path.unlink()
    else:
        path.chmod(0o666)
    clock.advance(LOOK_SECONDS)
    assert file.keys().owner_of(key) == "alice"
    path.unlink(missing_ok=True)
    path.write_text(text.replace("alice", "carol"))
    clock.advance(LOOK_SECONDS)
    assert file.keys().owner_of(key) == "carol"
