"""The benchmarks of many sessions, on a model that is quick enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from bench.concurrency import KINDS
from bench.concurrency import main as measure_concurrency
from bench.sessions import main as hold_sessions


@pytest.mark.timeout(300)
def test_sessions_beyond_the_caches_are_told_by_level_and_answer_as_noted(tmp_path: Path) -> None:
    with pytest.raises(typer.Exit) as ended:
        hold_sessions("tiny", sessions=30, kv=1, features=1, pixels=1, out=tmp_path)
    assert ended.value.exit_code == 0, "an answer was another one"
    (kept,) = tmp_path.glob("sessions-*.json")
    report = json.loads(kept.read_text())
    assert sum(each["num_sessions"] for each in report["asked"]) == 30
    assert {each["level"] for each in report["asked"]} >= {"KV on the device", "features"}
    assert report["looks"][-1]["num_sessions"] == 30
    assert 1 < report["looks"][-1]["cached"] <= 3


@pytest.mark.timeout(300)
def test_every_number_of_sessions_is_measured_with_pictures_of_their_own_and_with_one(
    tmp_path: Path,
) -> None:
    measure_concurrency("tiny", size=[1, 3], rounds=2, out=tmp_path)
    (kept,) = tmp_path.glob("concurrency-*.json")
    found = json.loads(kept.read_text())["throughputs"]
    assert [(each["pictures"], each["num_sessions"]) for each in found] == [
        (kind, size) for kind in KINDS for size in (1, 3)
    ]
    assert all(each["rate"]["smallest"] > 0 for each in found)
