"""All that decides how the model comes out, beside the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The defaults are what the shipped weights were trained with."""

    minutes: float = 155.0
    seed: int = 1
    num_pictures: int = 80_000
    vision_share: float = 0.04  # of the time, for the first stage
    twin_share: float = 0.2  # of the time, for the last stage
    vision_batch: int = 128  # pictures
    # peak learning rates, (Muon, AdamW), of each stage
    vision_rates: tuple[float, float] = (0.02, 3e-3)
    talk_rates: tuple[float, float] = (0.005, 2e-3)
    twin_rates: tuple[float, float] = (0.002, 8e-4)
    twins_asked: float = 0.5  # of pictures and of questions in the last stage
    tower_scale: float = 0.1  # of the rates, for the vision tower after the first stage
    weight_decay: float = 0.1
    warm_up: float = 0.01  # of the stage
    hold: float = 0.25  # of the stage, until which the rate stays at its height
    patch_loss: float = 0.5  # of the vision tower's labels after the first stage
    clip: float = 1.0

    def rate_factor(self, done: float) -> float:
        """The learning rate after that share of a stage's time, as a share of its peak.

        Up for a moment, level, then straight down to zero at the end of the time.
        """
        rising = (done + 1e-4) / self.warm_up
        falling = (1 - done) / (1 - self.hold)
        return max(0.0, min(rising, 1.0, falling))
