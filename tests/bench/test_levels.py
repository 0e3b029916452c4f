"""The benchmark of the cache's levels, on a model that is quick enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.levels import LEVELS, main


@pytest.mark.timeout(300)
def test_one_run_finds_a_conversation_on_every_level_and_keeps_the_figures(tmp_path: Path) -> None:
    # A conversation that is not on the level to be measured ends the run with an error.
    main("tiny", rounds=1, out=tmp_path)
    (kept,) = tmp_path.glob("levels-*.json")
    found = json.loads(kept.read_text())["levels"]
    assert [each["name"] for each in found] == [level.name for level in LEVELS]
    assert all(each["ttft"]["median"] > 0 for each in found)
    assert found[0]["ratio"]["median"] == 1
