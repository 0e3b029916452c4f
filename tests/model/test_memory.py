"""How many KV blocks there are, when nobody says: what is left, and what is told of it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from tests.model.tiny import PLAIN
from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.device_memory import HostMemory
from vlm_sessions.model.kv_cache import KVCache, KVShape
from vlm_sessions.model.memory import GRAPH_RESERVE, MIB, MemoryPlan, num_bytes, plan_memory
from vlm_sessions.model.runner import make_runner

GIB = 1 << 30
SHAPE = KVShape(num_layers=32, num_kv_heads=32, head_dim=128, dtype=torch.bfloat16)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@dataclass
class FakeMemory:
    """A device on which the largest step needs ``peak`` bytes."""

    total: int
    left: int
    peak: int | None = None

    def capacity(self) -> int:
        return self.total

    def free(self) -> int:
        return self.left

    def peak_of(self, work: Callable[[], None]) -> int | None:
        if self.peak is not None:
            work()
        return self.peak


def plan(settings: Settings, device: torch.device, memory: FakeMemory) -> MemoryPlan:
    return plan_memory(
        settings,
        SHAPE,
        device=device,
        weights=13 * GIB,
        max_context=4096,
        image_tokens=576,
        largest_step=lambda: None,
        memory=memory,
    )


def test_on_a_gpu_the_blocks_get_what_is_left_of_the_share() -> None:
    h200 = FakeMemory(total=140 * GIB, left=126 * GIB, peak=2 * GIB)
    settings = Settings(memory_share=0.9, feature_cache_mb=1024)
    table = plan(settings, CUDA, h200).table
    expected = 126 * GIB - 14 * GIB - GIB - 2 * GIB - GRAPH_RESERVE
    assert expected - 8 * MIB < table.kv_blocks <= expected
    assert table.kv_tokens == table.kv_blocks // (512 * 1024)
    assert table.kv_sessions == table.kv_tokens // 650
    assert table.free == 126 * GIB - GIB - 2 * GIB - table.kv_blocks


def test_on_a_cpu_the_blocks_get_a_quarter_of_what_is_free_and_not_without_end() -> None:
    assert plan(Settings(), CPU, FakeMemory(8 * GIB, 4 * GIB)).table.kv_blocks == GIB
    assert plan(Settings(), CPU, FakeMemory(999 * GIB, 900 * GIB)).table.kv_blocks == 4 * GIB


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_a_size_that_is_set_is_the_size(device: torch.device) -> None:
    memory = FakeMemory(total=8 * GIB, left=GIB, peak=GIB)
    assert plan(Settings(kv_cache_mb=2048), device, memory).table.kv_blocks == 2 * GIB


def test_a_gpu_that_the_weights_fill_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"VLM_KV_CACHE_MB.*needs 2048 MiB"):
        plan(Settings(), CUDA, FakeMemory(total=16 * GIB, left=2 * GIB, peak=GIB))


def test_the_log_line_has_mib_and_says_what_was_not_measured() -> None:
    fields = plan(Settings(), CPU, FakeMemory(8 * GIB, 4 * GIB)).table.fields()
    assert (fields["kv_blocks_mib"], fields["weights_mib"]) == (1024, 13 * 1024)
    assert fields["activations_mib"] is None


def test_what_the_host_keeps_is_told_too_and_on_a_cpu_it_is_the_same_memory() -> None:
    for device, expected in ((CUDA, 0), (CPU, 3 * GIB)):
        table = plan(Settings(kv_cache_mb=1024), device, FakeMemory(99 * GIB, 9 * GIB, 0)).table
        held = table.with_host(kv=2 * GIB, features=GIB)
        assert table.free - held.free == expected
        assert held.fields()["host_kv_mib"] == 2048


def test_a_containers_limit_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert (HostMemory(tmp_path).capacity(), HostMemory(tmp_path).free()) == (8 * GIB, 4 * GIB)

    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text(f"{GIB}\n")
    (cgroup / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    assert HostMemory(tmp_path).free() == 4 * GIB
    (cgroup / "memory.max").write_text(f"{2 * GIB}\n")
    assert (HostMemory(tmp_path).capacity(), HostMemory(tmp_path).free()) == (2 * GIB, 3 * GIB // 2)


def test_the_older_kind_of_limit_counts_too(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    cgroup = tmp_path / "sys/fs/cgroup/memory"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.limit_in_bytes").write_text(f"{GIB}")
    (cgroup / "memory.usage_in_bytes").write_text(f"{GIB // 4}")
    assert HostMemory(tmp_path).free() == 3 * GIB // 4


def test_tied_weights_are_counted_once() -> None:
    weight = torch.zeros(10, 10)
    assert num_bytes([weight, weight.T, weight[2:]]) == 400


def test_a_runner_tells_where_its_memory_went(tiny_paths: dict[str, Path]) -> None:
    runner = make_runner(Settings(device="cpu", threads=1, kv_cache_mb=4), tiny_paths[PLAIN.name])
    weights = (tiny_paths[PLAIN.name] / "model.safetensors").stat().st_size
    assert runner.memory.weights == pytest.approx(weights, rel=0.2)
    assert runner.memory.kv_tokens == runner.info.num_blocks * runner.info.block_size
    assert 0 < runner.memory.free < runner.memory.capacity


def test_the_largest_step_fits_its_own_few_blocks(tiny_paths: dict[str, Path]) -> None:
    """It is tried on GPUs only, so here it is told to be tried."""
    done = []

    class Trying(HostMemory):
        def peak_of(self, work: Callable[[], None]) -> int | None:
            work()
            done.append(True)
            return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_sessions.model.memory.memory_of", lambda _device: Trying())
        for max_batch_tokens in (16, 100, 5000):
            settings = Settings(device="cpu", kv_cache_mb=1, max_batch_tokens=max_batch_tokens)
            make_runner(settings, tiny_paths[PLAIN.name])
    assert len(done) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_blocks_on_a_cpu_take_memory_only_once_they_are_written(dtype: torch.dtype) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    shape = KVShape(num_layers=2, num_kv_heads=4, head_dim=64, dtype=dtype)
    cache = KVCache(shape, num_blocks=10_000, block_size=16, device=torch.device("cpu"))
    size = cache.bits.numel() * dtype.itemsize
    assert size > 300 * MIB
    assert process.memory_info().rss - before < size / 10
    assert cache.bits.data_ptr() % mmap.PAGESIZE == 0
    cache.bits[:, :, :, 7_777].fill_(1)
    assert process.memory_info().rss - before < size / 10, "not in pages that hold many blocks"
    assert not cache.bits[:, :, :, 9_999].any()
    cache.bits[:, :, :, :5_000].fill_(1)
    assert process.memory_info().rss - before > size / 3
