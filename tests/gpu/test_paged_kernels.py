"""On a CUDA device: kernels against the plain one, and graphs against doing without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.exactness import hold_and_compare
from tests.model.tiny import GQA, save_tiny
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.model.attention.gpu import TOLERANCES, choose_paged_kernel, probe
from vlm_sessions.model.attention.varlen_kernel import has_block_tables, varlen_kernel
from vlm_sessions.model.kv_cache import KVShape
from vlm_sessions.model.runner import make_runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda")


@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn], ids=["same", "fp8"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim"), [(32, 32, 128), (28, 4, 128), (4, 2, 16)]
)
def test_tritons_kernel_is_right(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    stored: torch.dtype | None,
) -> None:
    from vlm_sessions.model.attention.triton_kernel import triton_kernel  # noqa: PLC0415

    shape = KVShape(1, num_kv_heads, head_dim, stored or dtype)
    for block_size in (1, 16, 48, 256):
        error = probe(
            triton_kernel,
            Settings(block_size=block_size),
            shape,
            num_heads=num_heads,
            dtype=dtype,
            device=DEVICE,
        )
        assert error <= TOLERANCES[dtype], block_size


@pytest.mark.skipif(not has_block_tables(), reason="this torch's varlen_attn has no block tables")
def test_torchs_own_kernel_is_right() -> None:
    error = probe(
        varlen_kernel,
        Settings(block_size=256),
        KVShape(1, 4, 128, torch.bfloat16),
        num_heads=28,
        dtype=torch.bfloat16,
        device=DEVICE,
    )
    assert error <= TOLERANCES[torch.bfloat16]


def test_some_kernel_is_chosen_by_default() -> None:
    shape = KVShape(1, 32, 128, torch.bfloat16)
    chosen = choose_paged_kernel(
        Settings(), shape, num_heads=32, dtype=torch.bfloat16, device=DEVICE
    )
    assert chosen is not None


@pytest.mark.parametrize(
    "settings",
    [{}, {"cuda_graphs": False}, {"paged_kernel": "none"}, {"kernels": "reference"}],
    ids=["default", "without graphs", "gathered", "reference"],
)
def test_sessions_answer_as_generate_does_by_every_path(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    """Eight sessions on three pictures share prefixes, and decode in batches of many sizes."""
    path = save_tiny(tmp_path, GQA)
    small = {"device": "cuda", "dtype": "float32", "kv_cache_mb": 8, "host_kv_mb": 0, **settings}
    runner = make_runner(Settings.model_validate(small), path)
    engine = Engine(runner, EngineLimits(max_batch_tokens=64))
    hold_and_compare(path, engine, num_sessions=8, device="cuda")
