"""Where no engine can run, the tests of this directory say so: a skip, or a failure if required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.container.conftest import ROOT


def run_a_test(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Of the image, with an engine that does not answer."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "tests/container/test_image.py", "-k", "labels"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_an_engine_the_skip_is_loud(tmp_path: Path) -> None:
    ran = run_a_test(tmp_path, CI_CONTAINER="")
    assert ran.returncode == 0
    assert "NO CONTAINER WAS BUILT OR RUN" in ran.stdout
    assert "1 skipped" in ran.stdout


def test_without_an_engine_that_is_required_the_tests_fail(tmp_path: Path) -> None:
    ran = run_a_test(tmp_path, CI_CONTAINER="required")
    assert ran.returncode == 1
    assert "CI_CONTAINER=required, and no container engine" in ran.stdout
