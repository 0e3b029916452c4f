"""The benchmark for GPUs runs anywhere, small; what it then measures means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer

from bench.gpu import main
from bench.gpu_limits import Floors, Limits
from bench.shapes import SHAPES


@pytest.mark.slow
def test_the_whole_table_is_measured_in_one_call(tmp_path: Path) -> None:
    main("tiny", device="cpu", out=tmp_path)
    (kept,) = tmp_path.glob("gpu-*.json")
    report = json.loads(kept.read_text())
    assert report["device"] == "cpu"
    assert all(figure["value"] > 0 for figure in report["figures"])
    named = {figure["name"] for figure in report["figures"]}
    assert {"first TTFT", "follow-up TTFT", "the same, shared ÷ unshared"} <= named
    assert report["mixed"]["num_lost"] == 0
    assert report["mixed"]["levels"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="needs a CUDA device"):
        main(out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_floors_are_those_of_the_reference_page() -> None:
    """Computed there by hand for LLaVA-1.5-7B, from 4.3 TB/s and 790 TFLOP/s."""
    floors = Floors(SHAPES["7b"], Limits(bytes_per_second=4.3e12, flops=790e12), item=2)
    assert floors.step(1, 650) * 1e3 == pytest.approx(3.15, rel=0.02)
    assert 64 / floors.step(64, 650) == pytest.approx(7857, rel=0.02)
    assert floors.first_token(626) * 1e3 == pytest.approx(10.9, rel=0.05)
