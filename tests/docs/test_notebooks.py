"""The notebooks do what they show, and carry no outputs of somebody's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import notebooks
from tests.docs.conftest import ROOT, ReadmeService

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOCALLY = ROOT / "notebooks" / "01_sessions_locally.ipynb"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_the_first_notebook_talks_to_a_running_service_and_shows_what_is_cached(
    readme_service: ReadmeService,
) -> None:
    printed = notebooks.run(LOCALLY, {"URL": f"http://{readme_service.address}"}, {})
    assert "What is in the top left?     a red circle" in printed
    assert "How big is it?               large" in printed
    assert "first piece after" in printed
    assert "ms = " in printed
    assert "closed" in printed.splitlines()[-1]
