"""The parts that chaos puts into the product, and its small disk: they do what they say."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos.composition import OUT_OF_MEMORY, FailingRunner, JumpingClock
from bench.chaos.disk import filled, small_disk
from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.types import Plan


def test_a_clock_jumps_for_everyone_who_reads_it_and_jumps_back(tmp_path: Path) -> None:
    clock, other = JumpingClock(tmp_path / "clock"), JumpingClock(tmp_path / "clock")
    assert abs(other() - time.time()) < 60
    clock.set(3600)
    assert abs(other() - time.time() - 3600) < 60
    clock.set(-3600)
    assert abs(other() - time.time() + 3600) < 60
    clock.set(0)
    assert abs(other() - time.time()) < 60


def test_a_runner_fails_once_its_process_is_told_and_not_before() -> None:
    runner = FailingRunner(FakeRunner())
    assert runner.info.num_blocks == FakeRunner().info.num_blocks
    assert runner.execute(Plan(wait=True)).sampled == ()
    os.kill(os.getpid(), OUT_OF_MEMORY)
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.execute(Plan(wait=True))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    with small_disk(path) as mounted:
        if not mounted:
            pytest.skip("this user may mount nothing")
        yield path


def test_a_filled_disk_takes_nothing_and_has_room_again_afterwards(disk: Path) -> None:
    journal = sqlite3.connect(disk / "journal", isolation_level=None)
    journal.execute("CREATE TABLE notes (note BLOB)")
    with filled(disk), pytest.raises(sqlite3.OperationalError, match="full"):
        journal.execute("INSERT INTO notes VALUES (zeroblob(1000000))")
    journal.execute("INSERT INTO notes VALUES (zeroblob(1000000))")
    journal.close()
