"""A modelled device: it computes nothing, and its clock moves on by what a step would take."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_sessions.engine.types import (
    Encoded,
    EngineInfo,
    PixelImage,
    Plan,
    Sampled,
    StepResult,
    Turn,
)

BLOCK_SIZE = 16
SYSTEM_TOKENS, SMALL_IMAGE = 32, 576
"""Tokens that a conversation begins with, and of an image behind them."""
ASKED, ANSWERED = 30, 40
"""Tokens of a turn, more or less."""


@dataclass(frozen=True, slots=True)
class ModelledMachine:
    """Seconds; ``kv_bytes`` and ``feature_bytes`` are of one token."""

    step: float
    token: float
    encoded_token: float
    copied_byte: float
    kv_bytes: int
    feature_bytes: int


MACHINES = {
    # LLaVA-1.5-7B in bf16: 13.2 GB of weights at 4.3 TB/s, 8.2 TFLOP for 626 tokens at 790 TFLOP/s,
    # 0.49 ms an image, 55 GB/s to the host.
    "h200-7b": ModelledMachine(3.15e-3, 1.66e-5, 8.5e-7, 1 / 55e9, 512 << 10, 8 << 10),
    # The 221 M shape in float32 on one core; 10 GB/s within the host.
    "core-221m": ModelledMachine(40e-3, 2.0e-3, 2.2e-3, 1 / 10e9, 72 << 10, 3 << 10),
}
ATTENTION_DEPTH = 8192


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class ModelledRunner:
    """``Runner`` that computes nothing and takes its time."""

    def __init__(self, machine: ModelledMachine, clock: Clock, info: EngineInfo) -> None:
        self.info = info
        self.feature_bytes_per_token = machine.feature_bytes
        self.copied_seconds = 0.0
        self.encoded_seconds = 0.0
        self._machine = machine
        self._clock = clock
        self._num_tokens: dict[str, int] = {}
        """digest -> tokens of the image"""

    def expect(self, turn: Turn) -> None:
        self._num_tokens.update((image.digest, image.length) for image in turn.images)

    def execute(self, plan: Plan) -> StepResult:
        machine = self._machine
        seconds = machine.step if plan.spans else 0.0
        for span in plan.spans:
            depth = span.start + len(span.tokens) / 2
            seconds += len(span.tokens) * machine.token * (1 + depth / ATTENTION_DEPTH)
        encoded = []
        for image in plan.encode:
            took = self._num_tokens[image.digest] * machine.encoded_token
            encoded.append(Encoded(image.digest, took))
            self.encoded_seconds += took
            seconds += took
        num_bytes = len(plan.load) * BLOCK_SIZE * machine.kv_bytes
        features = sum(self._num_tokens[digest] for digest in plan.restore) * machine.feature_bytes
        loading = num_bytes * machine.copied_byte
        self.copied_seconds += loading + features * machine.copied_byte
        seconds = max(seconds + features * machine.copied_byte, loading)  # loads go beside the rest
        self._clock.now += seconds
        return StepResult(
            tuple(Sampled(s.turn_id, 7, False) for s in plan.spans if s.draw is not None),
            tuple(encoded),
            len(plan.load),
            loading,
        )


def modelled_info(
    machine: ModelledMachine, *, num_blocks: int, num_host_blocks: int = 0
) -> EngineInfo:
    return EngineInfo(
        model="modelled",
        device="none",
        dtype="none",
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_context=8192,
        kv_bytes_per_token=machine.kv_bytes,
        load_seconds=0.0,
        num_host_blocks=num_host_blocks,
    )


def modelled_pixels(digest: str) -> PixelImage:
    """Of no picture: nobody looks."""
    return PixelImage(digest, (1,), b"1234")
