"""The page on security tells of every threat, and of each with tests that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.conftest import ROOT

PAGE = ROOT / "docs" / "security.md"

# What may not be missing, whatever else is told: words of its row's first cell.
THREATS = [
    "private network",
    "metadata",
    "IPv6 clothes",
    "redirect",
    "DNS rebinding",
    "Decompression bombs",
    "Malformed and polyglot",
    "Header injection",
    "ids guessed",
    "Another's session",
    "shared cache",
    "reply or figure that names it",
    "Path tricks",
    "Model-name tricks",
    "Log injection",
    "Resource exhaustion",
    "Pickle",
    "Remote code",
    "Secrets in logs",
    "guessed by timing",
    "No key, or a wrong one",
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The cells of the table of threats, its head left out."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("threat", THREATS)
def test_a_threat_has_its_row(threat: str) -> None:
    assert [row[0] for row in rows() if threat in row[0]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_threat_has_a_defence_and_tests_that_exist(row: list[str]) -> None:
    threat, defence, shown_by = row
    assert threat
    assert len(defence) > 20
    tests = _TEST.findall(shown_by)
    assert tests, "nothing shows it"
    assert _TEST.sub("", shown_by).strip(" ,") == "", "only tests stand there, and are read as such"
    for file, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name
