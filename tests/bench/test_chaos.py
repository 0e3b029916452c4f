"""A minute of chaos: the real service under traffic, broken in many ways, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 1
ROOT = Path(__file__).parents[2]
RUN_SECONDS = 460.0
"""On cores that five others share; a quiet machine takes a fifth of it."""
PATIENCE = 12
"""Times in which the service must be back are for machines with nothing else to do."""


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_minute_of_faults_loses_nothing_hangs_nobody_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "bench.chaos", "--seconds", "60", "--seed", str(SEED)]
    ran = subprocess.run(
        [*command, "--patience", str(PATIENCE), "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (kept,) = tmp_path.glob("chaos-*.json")
    report = json.loads(kept.read_text())
    assert report["violations"] == []
    assert report["num_answers_checked"] > 20
    assert report["num_records_checked"] > 20
    assert len({each["fault"] for each in report["faults"]}) > 1
    assert set(report["end"]["rows"].values()) == {0}
