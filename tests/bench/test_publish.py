"""The page of figures says what the kept runs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.keep import RESULTS
from bench.publish.kept import ROOT, newest
from bench.publish.markdown import number, table
from bench.publish.page import performance_page
from bench.publish.readme import with_figures


def test_the_page_is_what_the_kept_runs_give() -> None:
    page = ROOT / "docs" / "performance.md"
    assert page.read_text() == performance_page(), "run: make bench-report"


def test_the_readmes_figures_are_the_newest_runs() -> None:
    kept, readme = newest("serve"), (ROOT / "README.md").read_text()
    assert kept is not None
    assert readme == with_figures(readme, kept), "run: make bench-report"
    with pytest.raises(ValueError, match="lacks"):
        with_figures("# vlm-sessions", kept)


def test_the_newest_run_of_a_benchmark_counts(tmp_path: Path) -> None:
    for moment in ("2026-01-02T030405Z", "2026-11-02T030405Z", "2025-12-02T030405Z"):
        (tmp_path / f"router-{moment}.json").write_text(json.dumps({"taken_at": moment}))
    (tmp_path / "router-old-2027-01-01T000000Z.json").write_text("{}")
    kept = newest("router", tmp_path)
    assert kept is not None
    assert kept.data["taken_at"] == "2026-11-02T030405Z"


def test_a_benchmark_that_never_ran_is_not_mentioned(tmp_path: Path) -> None:
    assert newest("router", tmp_path) is None
    assert "## " not in performance_page(tmp_path)


def test_what_was_never_measured_on_a_gpu_is_marked_so(tmp_path: Path) -> None:
    assert "Not yet measured" in performance_page(tmp_path)
    (tmp_path / "gpu-2026-01-02T030405Z.json").write_text("{}")
    assert "Not yet measured" not in performance_page(tmp_path)


def test_a_newer_run_changes_the_page(tmp_path: Path) -> None:
    kept = newest("router")
    assert kept is not None
    (tmp_path / kept.path.name).write_text(json.dumps({**kept.data, "added": 12.34}))
    assert "adds 12.34 ms" in " ".join(performance_page(tmp_path).split())
    assert "adds 12.34 ms" not in " ".join(performance_page(RESULTS).split())


def test_numbers_keep_three_figures() -> None:
    assert [number(x) for x in (2068.4, 97.44, 1.0661, 0.1494, 0)] == [
        "2,068",
        "97.4",
        "1.07",
        "0.149",
        "0",
    ]


def test_a_table_has_as_many_columns_in_every_line() -> None:
    lines = table(("", "a", "b"), [("x", "1", "2")]).splitlines()
    assert {line.count("|") for line in lines} == {4}


def test_where_a_peer_is_ahead_the_page_says_so(tmp_path: Path) -> None:
    kept = newest("peers")
    assert kept is not None
    data = json.loads(json.dumps(kept.data))
    (ratio, *_) = (
        each
        for each in data["comparisons"][0]["ratios"]
        if each["name"] == "ours / vLLM for CPU, follow-up TTFT"
    )
    for median, ahead in ((0.96, False), (1.04, True)):
        ratio["spreads"]["cpu"]["median"] = median
        (tmp_path / kept.path.name).write_text(json.dumps(data))
        page = " ".join(performance_page(tmp_path).split())
        assert ("vLLM for CPU, follow-up TTFT (1.04)" in page) == ahead
