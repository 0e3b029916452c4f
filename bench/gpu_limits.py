"""What the device could do at best: the floors that figures are held against.

Measured with a large copy and a large product on the device itself, then computed: what a step must
read at that speed, and what it must multiply.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.shapes import Shape, Tower


@dataclass(frozen=True, slots=True)
class Limits:
    bytes_per_second: float
    """Read and written by a copy."""
    flops: float
    """Of a square matrix product in the model's type."""


@dataclass(frozen=True, slots=True)
class Floors:
    """Least times of a shape's work on a device, in seconds.

    Args:
        item: bytes of a number.
    """

    shape: Shape
    limits: Limits
    item: int

    def first_token(self, num_tokens: int) -> float:
        """Encode an image and compute a prompt of so many tokens, the image's among them."""
        vision = self.shape.vision
        image = 2 * _parameters(vision, gated=False) * (self.shape.num_image_tokens + 1)
        image += 4 * vision.num_layers * (self.shape.num_image_tokens + 1) ** 2 * vision.hidden
        prompt = 2 * _parameters(self.shape.text, gated=True) * num_tokens
        prompt += 2 * self.shape.text.num_layers * num_tokens**2 * self.shape.text.hidden
        return max((image + prompt) / self.limits.flops, self.step(1, num_tokens))

    def step(self, num_sequences: int, context: int, *, num_contexts: int | None = None) -> float:
        """Read the weights once, and so many contexts: as many as there are sequences, if not said
        otherwise. Also a follow-up's: its few tokens are computed while the weights are read."""
        text = self.shape.text
        weights = _parameters(text, gated=True) + self.shape.vocab_size * text.hidden
        per_token = 2 * text.num_layers * text.hidden
        num_contexts = num_sequences if num_contexts is None else num_contexts
        read = weights + num_contexts * context * per_token
        return read * self.item / self.limits.bytes_per_second


def _parameters(tower: Tower, *, gated: bool) -> int:
    """Of the layers' matrices."""
    mlp = (3 if gated else 2) * tower.hidden * tower.intermediate
    return tower.num_layers * (4 * tower.hidden**2 + mlp)


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """A copy and a product, large enough on a GPU to reach its limits; small on a CPU."""
    on_gpu = device.type == "cuda"
    source = torch.zeros(1 << (32 if on_gpu else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _seconds(lambda: target.copy_(source), device)
    side = 8192 if on_gpu else 512
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    multiplying = _seconds(lambda: left @ right, device)
    return Limits(2 * source.numel() / copying, 2 * side**3 / multiplying)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """The least of some repeats."""
    taken = []
    for _ in range(3 + repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[3:])
