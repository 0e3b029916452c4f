"""A runner whose work takes simulated time, and which may fail at any step."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import msgspec

from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Encoded, Plan, StepResult

ROW_BYTES = FakeRunner.feature_bytes_per_token
TOKEN_SECONDS = 0.001
STEP_SECONDS = 0.004


class DeviceFailed(Exception):
    """What a device raises that has no memory left, or has fallen off its bus."""


@dataclass(frozen=True)
class EngineShape:
    """How large an engine is, at every level too small for what is asked of it."""

    num_blocks: int
    block_size: int
    max_context: int
    num_host_blocks: int
    host_feature_bytes: int
    eos_every: int
    encode_steps: int
    limits: EngineLimits

    @classmethod
    def drawn(cls, random: Random) -> EngineShape:
        block_size = random.choice([1, 2, 3, 4, 5, 8])
        max_context = random.choice([40, 60, 100, 160])
        least = -(-max_context // block_size)
        limits = EngineLimits(
            eviction=random.choice(list(Eviction)),
            max_loads_per_step=random.choice([1, 2, 3, 32]),
            max_batch_tokens=random.choice([3, 7, 16, 64, 1024]),
            prefill_share=random.choice([0.0, 0.5]),
            max_running=random.choice([1, 2, 4, 4, 8]),
            max_images_encoding=random.choice([1, 2, 4]),
            feature_bytes=random.choice([0, 6, 10, 30]) * ROW_BYTES,
            pixel_bytes=random.choice([0, 12, 24, 60]),
        )
        return cls(
            num_blocks=least + random.choice([0, 0, 1, 3, least]),
            block_size=block_size,
            max_context=max_context,
            num_host_blocks=random.choice([0, 2, least // 2, least, 3 * least]),
            host_feature_bytes=random.choice([0, 6, 12, 40]) * ROW_BYTES,
            eos_every=random.choice([0, 9, 9, 30]),
            encode_steps=random.choice([0, 0, 1, 3]),
            limits=limits,
        )


class SimulatedRunner(FakeRunner):
    """A ``FakeRunner`` that says what its steps take.

    Args:
        failure_rate: how likely it is that a step fails.
    """

    def __init__(self, shape: EngineShape, random: Random, *, failure_rate: float = 0.0) -> None:
        super().__init__(
            num_blocks=shape.num_blocks,
            block_size=shape.block_size,
            num_host_blocks=shape.num_host_blocks,
            host_feature_bytes=shape.host_feature_bytes,
            max_context=shape.max_context,
            eos_every=shape.eos_every,
            encode_steps=shape.encode_steps,
        )
        self.failure_rate = failure_rate
        self.busy_seconds = 0.0
        """What the steps have taken since somebody last set this to zero."""
        self._random = random

    def execute(self, plan: Plan) -> StepResult:
        """Carry out one plan.

        Raises:
            DeviceFailed: before anything of it is done.
            AssertionError: the plan breaks the contract of ``types.py``.
        """
        if self._random.random() < self.failure_rate:
            raise DeviceFailed("out of memory")
        result = super().execute(plan)
        self.plans.clear()
        num_tokens = sum(len(span.tokens) for span in plan.spans)
        noise = self._random.choice([0.5, 1.0, 1.0, 1.0, 2.0, 20.0])
        self.busy_seconds += noise * (STEP_SECONDS + num_tokens * TOKEN_SECONDS)
        return msgspec.structs.replace(
            result,
            encoded=tuple(
                Encoded(image.digest, self._random.uniform(0, 0.1)) for image in result.encoded
            ),
            blocks_loaded=len(plan.load),
            load_seconds=len(plan.load) * self._random.uniform(0, 0.002),
        )
