"""The benchmark itself, on a model that is quick: one run through the real stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 280.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_run_prints_and_keeps_every_figure_that_is_promised(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.serve", "--shape", "tiny", "--rounds", "1"]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for promised in (
        "TTFT, first prompt",
        "TTFT, follow-up",
        "between tokens, follow-up",
        "TTFT, picture every time",
        "TTFT: picture every time / follow-up",
        "tokens/s, 1 session",
        "tokens/s, 2 sessions",
        "tokens/s, 2 clients, picture every time",
        "overhead of the stack, follow-up's TTFT, ms",
        "overhead of the stack, a token, ms",
    ):
        assert promised in ran.stdout
    (kept,) = tmp_path.glob("serve-*.json")
    (figures,) = json.loads(kept.read_text())["figures"]
    assert figures["follow_up_cached"] > 0.5, "a follow-up computes only what is new"
    assert 0 < figures["engine_ttft"]["smallest"] < figures["follow_up_ttft"]["smallest"]
    assert figures["session_rate_many"]["median"] > 0
