"""The benchmark of the kernels times ours, torch's, and the reading of the same memory."""

from __future__ import annotations

import pytest
import torch

import bench.kernels
from bench.kernels import QUERIES, ROWS, SHAPES, measure
from vlm_sessions.model.native.library import load_library


def test_every_product_choice_and_attention_is_timed_three_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench.kernels, "LEAST_BYTES", 1)
    monkeypatch.setattr(bench.kernels, "NUM_LAYERS", 1)
    monkeypatch.setattr(bench.kernels, "HEAD", (4096, 64))
    library = load_library()
    if library is None:
        pytest.skip("the kernels are not built")
    results = measure(library, (torch.bfloat16,), num_rounds=1)
    assert len(results) == len(SHAPES) * len(ROWS) + 2 * len(QUERIES)
    for result in results:
        assert min(result.native_ms, result.torch_ms, result.read_ms) > 0
        assert result.speedup == result.torch_ms / result.native_ms
