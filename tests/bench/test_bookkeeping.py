"""The engine's bookkeeping is measured over turns that come and go, and without the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from bench.bookkeeping import Crowd, Stopwatch, main
from bench.modelled import ModelledRunner
from bench.publish.page import performance_page
from vlm_sessions.engine.types import Plan, StepResult


def test_a_run_answers_sessions_from_their_caches_and_is_published(tmp_path: Path) -> None:
    main(40, running=8, steps=200, seed=1, out=tmp_path)
    (kept,) = tmp_path.glob("bookkeeping-*.json")
    report = json.loads(kept.read_text())
    decoding, changing = report["decoding"], report["changing"]
    assert decoding["num_samples"] + changing["num_samples"] == 200
    assert 0 < decoding["smallest"] <= decoding["p50"] <= decoding["p99"]
    assert decoding["p50"] < changing["p99"]
    assert report["num_turns"] >= 8
    assert report["cached_share"] > 0.95, "else prompts were computed, and no steps as these"
    assert "40 sessions whose conversations are cached" in performance_page(tmp_path)


def test_the_devices_time_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("bench.bookkeeping.time.thread_time", lambda: now)
    watch = Stopwatch()
    for counts in (True, False, True):
        if counts:
            watch.go()
        now += 0.001
        if counts:
            watch.stop()
    assert watch.take() == pytest.approx(2.0)
    assert watch.take() == 0

    execute = ModelledRunner.execute

    def take_a_second(runner: ModelledRunner, plan: Plan) -> StepResult:
        nonlocal now
        now += 1.0
        return execute(runner, plan)

    monkeypatch.setattr(ModelledRunner, "execute", take_a_second)
    crowd = Crowd(2, 1, seed=1)
    crowd.open(0)
    assert now > 1
    assert crowd.watch.take() == 0


def test_no_more_are_answered_than_there_are_to_ask(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="fewer than there are sessions"):
        main(4, running=4, steps=10, seed=1, out=tmp_path)
    crowd = Crowd(2, 1, seed=1)
    crowd.open(0)
    crowd.check()
    assert crowd.num_answered == 1
