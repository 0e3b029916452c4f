"""What the pages name exists: files, tests, pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = ROOT / "src" / "vlm_sessions"

_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.py)(?:::(\w+))?`")
_LINK = re.compile(r"\]\(([\w./-]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    # A hub id has the form of a path, and a first part that is no directory here.
    named = [match[1] for match in _PATH.finditer(page.read_text())]
    paths = [name for name in named if _is_a_path(name)]
    assert [name for name in paths if not _find(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_that_a_page_cites_exist(page: Path) -> None:
    cited = [match for match in _PATH.finditer(page.read_text()) if match[2]]
    missing = [
        match[0] for match in cited if f"def {match[2]}(" not in (ROOT / match[1]).read_text()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_that_a_page_links_to_exist(page: Path) -> None:
    links = [match[1] for match in _LINK.finditer(page.read_text())]
    assert [link for link in links if not (page.parent / link).exists()] == []


def _is_a_path(name: str) -> bool:
    first = name.split("/", maxsplit=1)[0]
    return name.endswith(".py") or any((base / first).exists() for base in (ROOT, PACKAGE))


def _find(name: str) -> bool:
    return any((base / name).exists() for base in (ROOT, PACKAGE))
