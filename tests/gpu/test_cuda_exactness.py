"""The rule, held on a CUDA device: what tests/model proves on the CPU, with the same code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.exactness import branch_and_compare, hold_and_compare, make_engine
from tests.model.tiny import KINDS, Kind, save_tiny
from vlm_sessions.config import Settings
from vlm_sessions.engine.types import Draw
from vlm_sessions.engine.types import Sampling as SamplingParameters
from vlm_sessions.model.runner import make_runner
from vlm_sessions.model.sampler import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind: Kind = request.param
    return save_tiny(tmp_path_factory.mktemp(kind.name), kind)


@pytest.mark.parametrize("num_sessions", [1, 8])
def test_sessions_answer_as_generate_does(path: Path, num_sessions: int) -> None:
    engine = make_engine(path, device="cuda")
    hold_and_compare(path, engine, num_sessions=num_sessions, device="cuda")


def test_answers_are_the_same_after_every_cache_was_dropped(path: Path) -> None:
    engine = make_engine(path, device="cuda")
    hold_and_compare(path, engine, num_sessions=2, device="cuda", clear=True)


def test_forked_and_rewound_sessions_answer_as_generate_does(path: Path) -> None:
    engine = make_engine(path, device="cuda")
    branch_and_compare(path, engine, seed=0, device="cuda")
    assert engine.stats().blocks_copied_total > 0


def test_the_device_is_chosen_with_bfloat16_and_a_pool_of_its_free_memory(path: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    runner = make_runner(Settings(max_running=1, host_kv_mb=0), path)
    assert (runner.info.device, runner.info.dtype) == ("cuda:0", "bfloat16")
    assert 0.5 * free < runner.memory.kv_blocks < 0.9 * free
    assert runner.memory.activations is not None


def test_a_draw_is_the_same_on_both_devices() -> None:
    logits = torch.randn(32, 200, generator=torch.Generator().manual_seed(0)) * 3
    draws = [
        Draw(SamplingParameters(max_new_tokens=1, temperature=1.0, top_p=0.9, seed=n), n)
        for n in range(32)
    ]
    drawn = [
        Sampler(eos_ids=(1,), never=(2,), device=device).sample(logits.to(device), draws)
        for device in (torch.device("cpu"), torch.device("cuda"))
    ]
    assert drawn[0] == drawn[1]
