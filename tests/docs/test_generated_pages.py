from __future__ import annotations

from collections.abc import Callable

import pytest

from docs.generate import FOLDER, errors_page, settings_page


@pytest.mark.parametrize(
    ("name", "page"), [("settings.md", settings_page), ("errors.md", errors_page)]
)
def test_the_page_is_what_the_code_says(name: str, page: Callable[[], str]) -> None:
    written = (FOLDER / name).read_text()
    assert written == page(), "run: python -m docs.generate"
