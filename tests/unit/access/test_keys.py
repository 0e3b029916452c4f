"""Keys and their lines: what is kept tells no key, and a key tells whose it is."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from vlm_sessions.access.keys import KeyLine, KeyRing, new_key, read_lines
from vlm_sessions.errors import ConfigError

DIGEST = "ab" * 32


def test_a_key_has_256_bits_of_the_systems_source_and_none_is_like_another() -> None:
    made = {new_key("alice")[0] for _ in range(1000)}
    assert len(made) == 1000
    assert {len(key) for key in made} == {len("vlm-") + 43}, "32 bytes in URL-safe base64"


def test_a_line_holds_a_name_and_a_digest_from_which_no_key_can_be_told() -> None:
    key, line = new_key("alice")
    assert str(line) == f"alice:{hashlib.sha256(key.encode()).hexdigest()}"
    assert key not in str(line)
    assert line.digest.hex() not in repr(line)


def test_a_key_is_its_clients_and_nobody_elses() -> None:
    (alices, alice), (bobs, bob) = new_key("alice"), new_key("bob")
    ring = read_lines(f"# who may come in\n\n{alice}\n  {bob}  \n")
    assert (ring.owner_of(alices), ring.owner_of(bobs)) == ("alice", "bob")
    for other in ("", alices[:-1], alices + "a", alices.upper(), alice.digest.hex(), "\udcff", "é"):
        assert ring.owner_of(other) is None


def test_a_client_may_have_two_keys_while_it_changes_them() -> None:
    (old, before), (new, after) = new_key("alice"), new_key("alice")
    assert {KeyRing((before, after)).owner_of(key) for key in (old, new)} == {"alice"}
    assert KeyRing((after,)).owner_of(old) is None


def test_all_keys_are_compared_each_in_constant_time_whichever_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [new_key(f"client-{number}") for number in range(5)]
    ring = KeyRing(line for _, line in made)
    compared: list[tuple[int, int]] = []
    in_constant_time = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return in_constant_time(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in (made[0][0], made[4][0], "wrong"):
        compared.clear()
        ring.owner_of(key)
        assert compared == [(32, 32)] * 5, "of digests, which are all of one length"


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:",
        f":{DIGEST}",
        f"al ice:{DIGEST}",
        f"-alice:{DIGEST}",
        f"{'a' * 65}:{DIGEST}",
        f"alice:{DIGEST[1:]}",
        f"alice:{DIGEST}0",
        f"alice:{DIGEST.upper()}",
        "alice:vlm-a-key-and-not-its-digest",
        f"alice:{DIGEST}:more",
        f"alice\u202e:{DIGEST}",
    ],
)
def test_a_malformed_line_is_named_by_its_number_and_never_quoted(line: str) -> None:
    good = KeyLine("bob", bytes(32))
    with pytest.raises(ConfigError, match="line 2 is not NAME:SHA256") as refused:
        read_lines(f"{good}\n{line}\n")
    assert "alice" not in str(refused.value)
    assert "vlm-a-key" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "é", "a" * 65, "a\n"])
def test_what_is_no_name_gets_no_key(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a client's name"):
        new_key(name)
