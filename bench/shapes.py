"""The models that can be measured: LLaVAs of random weights.

They cost what trained ones of their shape cost. The answers' length is fixed, so what they say does
not matter; but every token is a word, so that a client sees each one come.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tower:
    """A transformer: layers of ``hidden`` width."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A LLaVA: CLIP vision tower, two-layer projector, Llama text model."""

    name: str
    vision: Tower
    text: Tower
    image_size: int
    """Pixels a side."""
    patch_size: int
    vocab_size: int = 32_000
    max_context: int = 4096

    @property
    def num_image_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2


SHAPES = {
    shape.name: shape
    for shape in (
        # Quick enough for a test of the benchmark itself.
        Shape("tiny", Tower(64, 128, 2, 2), Tower(64, 128, 2, 2), image_size=56, patch_size=14),
        # The built-in model's: so quick that what the stack costs shows.
        Shape(
            "demo",
            Tower(128, 384, 4, 4),
            Tower(128, 320, 6, 4),
            image_size=96,
            patch_size=12,
            vocab_size=1000,
        ),
        # 576 image tokens, as LLaVA-1.5's: what a session saves shows.
        Shape("221m", Tower(768, 3072, 12, 12), Tower(768, 2048, 12, 12), 336, patch_size=14),
        # LLaVA-1.5-7B's own, for GPUs.
        Shape("7b", Tower(1024, 4096, 24, 16), Tower(4096, 11008, 32, 32), 336, patch_size=14),
    )
}
