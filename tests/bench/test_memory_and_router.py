"""The two small benchmarks: one short run of each through the real stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 110.0


def run(out: Path, module: str, *arguments: str) -> dict[str, Any]:
    """What it kept."""
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (kept,) = out.glob("*.json")
    report: dict[str, Any] = json.loads(kept.read_text())
    return report


@pytest.mark.slow
def test_memory_is_told_for_every_process_and_for_the_state(tmp_path: Path) -> None:
    report = run(tmp_path, "bench.memory", "--sessions", "0", "--sessions", "8")
    none, some = report["footprints"]
    processes = {"HAProxy", "TorchServe", "worker", "engine", "supervisor"}
    assert set(none["memory_mib"]) == set(some["memory_mib"]) == processes
    assert min(some["memory_mib"].values()) > 1
    assert (none["num_sessions"], some["num_sessions"]) == (0, 8)
    assert some["state_kib"] > none["state_kib"]


@pytest.mark.slow
def test_a_router_costs_something_and_its_processor_time_is_a_part_of_it(tmp_path: Path) -> None:
    report = run(tmp_path, "bench.router", "--pairs", "200")
    assert report["direct"]["num_samples"] == report["routed"]["num_samples"] == 200
    assert 0 < report["router_cpu"] < report["routed"]["p50"]
    assert report["added"] > 0
