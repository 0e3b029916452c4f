"""A vision tower's activation by our kernel is the one of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import QuickGELUActivation

from vlm_sessions.model.activation import NativeQuickGelu, fuse_activations
from vlm_sessions.model.native.library import Library


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 32), (577, 96), (2, 3, 64)])
def test_it_is_what_it_is_by_torch(
    library: Library, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    numbers = (5 * torch.randn(shape)).to(dtype)
    numbers.flatten()[:4] = torch.tensor([0.0, -90.0, 90.0, float("inf")])
    expected = QuickGELUActivation()(numbers.float())
    given = NativeQuickGelu(library)(numbers.clone())
    assert given.dtype is dtype
    torch.testing.assert_close(given, expected.to(dtype), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("numbers", [torch.randn(5, 7), torch.randn(64, 32).T])
def test_numbers_that_the_kernel_does_not_take_are_left_to_torch(
    library: Library, numbers: torch.Tensor
) -> None:
    before = numbers.clone()
    assert torch.equal(NativeQuickGelu(library)(numbers), QuickGELUActivation()(before))
    assert torch.equal(numbers, before)


@torch.inference_mode()
def test_a_tower_gives_the_same_features_with_it(library: Library) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    tower, pixels = CLIPVisionModel(config).eval(), torch.randn(2, 3, 16, 16)
    expected = tower(pixels).last_hidden_state
    assert fuse_activations(tower, library) == config.num_hidden_layers
    assert (tower(pixels).last_hidden_state - expected).abs().max() < 1e-5
    assert fuse_activations(tower, library) == 0, "it is done once"
