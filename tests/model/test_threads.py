"""As many threads as there are cores to run them, one left for the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlm_sessions.model.threads import choose_num_threads


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight processors that are four cores of two threads each, all of them ours."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    for cpu in range(8):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_threads_of_one_core_count_once_and_one_core_is_left(system: Path) -> None:
    assert choose_num_threads(system) == 3


def test_only_the_cores_that_the_process_may_use_count(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 4, 5})
    assert choose_num_threads(system) == 1


@pytest.mark.parametrize(("quota", "expected"), [("max", 3), ("250000", 1), ("800000", 3)])
def test_a_containers_quota_is_kept(system: Path, quota: str, expected: int) -> None:
    write(system / "fs/cgroup/cpu.max", f"{quota} 100000\n")
    assert choose_num_threads(system) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 3), ("300000", 2)])
def test_the_quota_of_older_kernels_is_kept(system: Path, quota: str, expected: int) -> None:
    write(system / "fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(system / "fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert choose_num_threads(system) == expected


def test_a_single_core_is_used(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {5})
    assert choose_num_threads(system) == 1


def test_a_machine_that_does_not_tell_its_cores_has_one_for_each_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    assert choose_num_threads(tmp_path) == 3
