"""The product in simulated worlds: whatever befalls it, what must hold holds after every step.

``python -m tests.simulation`` does the same for as long as one likes; a world that fails here says
how to run it again. The seeds are fixed but for one a part, which is new in every run and printed.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from itertools import chain, count
from pathlib import Path

import pytest

from tests.simulation.campaign import Part, simulate, simulate_many

ROOT = Path(__file__).parents[2]
NUM_STEPS = {Part.ENGINE: 40_000, Part.SERVICE: 80_000}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", Part)
def test_whatever_happens_what_must_hold_holds_after_every_step(part: Part) -> None:
    fresh = secrets.randbits(32)
    sys.stdout.write(f"{part}: fresh seed {fresh}\n")
    assert simulate_many(part, chain([fresh], count(1)), NUM_STEPS[part]) >= NUM_STEPS[part]


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("seed", [1, 2])
def test_one_seed_gives_one_run(part: Part, seed: int) -> None:
    again = simulate(part, seed, 2000)
    assert simulate(part, seed, 2000) == again
    assert simulate(part, seed + 2, 2000).digest != again.digest


@pytest.mark.parametrize("part", Part)
def test_a_run_does_not_depend_on_how_python_hashes_words(part: Part) -> None:
    """The order of a set of words differs from process to process; no decision may hang on it."""
    command = [sys.executable, "-m", "tests.simulation", part, "--seed", "7", "--steps", "2000"]
    digests = set()
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [*command, "--steps-of-a-world", "2000"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        [digest] = [line for line in run.stdout.splitlines() if line.startswith("digest")]
        digests.add(digest)
    assert len(digests) == 1
