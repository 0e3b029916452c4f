"""A runner without a model, for tests: deterministic, quick, and strict about what it is told.

Its KV slots hold what was written to them and nothing else. The next token is a hash over all slots
that the block table shows it, and so over every token, position and image feature of the
conversation: a wrong block table, a stale slot, a wrong offset or another image's features changes
the answer. ``reference_answer`` says, without blocks or batches, what the answer must be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

from vlm_sessions.engine.types import (
    BlockCopy,
    Draw,
    Encoded,
    EngineInfo,
    PixelImage,
    Plan,
    Sampled,
    Sampling,
    StepResult,
    TokenSpan,
    Turn,
)

VOCAB_SIZE = 1000
EOS_TOKEN = 2
_SEED = 0x5EED


class FakeRunner:
    """``Runner`` over a Python list of slots.

    Args:
        eos_every: about one sampled token in this many ends the answer; 0: none does.
        step_seconds: how long a step sleeps.
        encode_steps: images are done so many steps after the one that begins them.
        fail_at_step: the step, counted from 1, that raises.
        before_step: called with each plan before it is carried out, for tests that wait or look.
    """

    feature_bytes_per_token = 16

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        num_host_blocks: int = 0,
        host_feature_bytes: int = 0,
        max_context: int | None = None,
        eos_every: int = 0,
        step_seconds: float = 0.0,
        encode_steps: int = 0,
        fail_at_step: int | None = None,
        before_step: Callable[[Plan], None] | None = None,
    ) -> None:
        self.info = EngineInfo(
            model="fake",
            device="none",
            dtype="int",
            num_blocks=num_blocks,
            block_size=block_size,
            max_context=num_blocks * block_size if max_context is None else max_context,
            kv_bytes_per_token=8,
            load_seconds=0.0,
            num_host_blocks=num_host_blocks,
            host_feature_bytes=host_feature_bytes,
        )
        self.plans: list[Plan] = []
        """Every plan carried out, for tests to look at, or to clear."""
        self._num_steps = 0
        self.features: dict[str, int] = {}
        """digest -> value of the features on this device"""
        self.host_features: dict[str, int] = {}
        self._encode_steps = encode_steps
        self._encoding: dict[str, tuple[int, int]] = {}
        """digest -> the step by whose end it is done, value of its features"""
        self._slots: list[int | None] = [None] * (num_blocks * block_size)
        self._host: list[list[int | None]] = [[None] * block_size for _ in range(num_host_blocks)]
        self._eos_every = eos_every
        self._step_seconds = step_seconds
        self._fail_at_step = fail_at_step
        self._before_step = before_step

    def execute(self, plan: Plan) -> StepResult:
        """Carry out one plan.

        Raises:
            RuntimeError: this is the step that was to fail.
            AssertionError: the plan breaks the contract of ``types.py``.
        """
        if self._before_step is not None:
            self._before_step(plan)
        self.plans.append(plan)
        self._num_steps += 1
        if self._num_steps == self._fail_at_step:
            raise RuntimeError(f"step {self._fail_at_step} was told to fail")
        if self._step_seconds:
            time.sleep(self._step_seconds)
        assert plan, "an empty plan is not worth a step"
        for digest in plan.offload:
            assert digest not in self.host_features, "features are in one place"
            self.host_features[digest] = self.features.pop(digest)
        for digest in plan.drop:
            assert digest in self.features, "only features that are there can be dropped"
            del self.features[digest]
        for digest in plan.forget:
            del self.host_features[digest]
        for digest in plan.restore:
            assert digest not in self.features, "features are in one place"
            self.features[digest] = self.host_features.pop(digest)
        for image in plan.encode:
            assert image.digest not in self.features, "features are made once"
            assert image.digest not in self._encoding, "features are made once"
            done = self._num_steps + self._encode_steps
            self._encoding[image.digest] = done, _feature_value(image)
        for store in plan.store:
            first = store.block * self.info.block_size
            self._host[store.slot] = self._slots[first : first + self.info.block_size]
        for copy in plan.copies:
            self._copy(copy)
        self._load(plan)
        written: set[int] = set()
        for span in plan.spans:
            self._write(span, written)
        # Attention comes after all writes of the step, as on a device.
        return StepResult(
            sampled=tuple(self._sample(s, s.draw) for s in plan.spans if s.draw is not None),
            encoded=tuple(self._end_encodes()),
        )

    def _end_encodes(self) -> Iterator[Encoded]:
        for digest, (done, value) in tuple(self._encoding.items()):
            if done <= self._num_steps:
                del self._encoding[digest]
                self.features[digest] = value
                yield Encoded(digest, seconds=0.0)

    def _copy(self, copy: BlockCopy) -> None:
        size = self.info.block_size
        assert 0 < copy.num_tokens < size, "a whole block is shared, not copied"
        first = copy.source * size
        kept = self._slots[first : first + copy.num_tokens]
        assert None not in kept, "only slots that were written are copied"
        first = copy.target * size
        self._slots[first : first + size] = [*kept, *[None] * (size - copy.num_tokens)]

    def _load(self, plan: Plan) -> None:
        """As late as a device may do it: spans must not rely on what these blocks hold."""
        size = self.info.block_size
        blocks = {load.block for load in plan.load}
        assert len(blocks) == len(plan.load), "a block is loaded once"
        for span in plan.spans:
            assert blocks.isdisjoint(span.blocks), "spans do not wait for loads"
        for load in plan.load:
            kept = self._host[load.slot][: load.num_tokens]
            assert None not in kept, "only slots that were written are loaded"
            first = load.block * size
            self._slots[first : first + size] = [*kept, *[None] * (size - load.num_tokens)]

    def _write(self, span: TokenSpan, written: set[int]) -> None:
        assert span.tokens, "a span computes something"
        values: list[int] = list(span.tokens)
        for image in span.images:
            assert image.digest in self.features, "features are encoded before they are used"
            assert image.position + image.length <= len(values)
            for row in range(image.length):
                values[image.position + row] = _row_value(
                    self.features[image.digest], image.offset + row
                )
        for index, value in enumerate(values):
            slot = self._slot(span, span.start + index)
            assert slot not in written, "two spans of a step never write one slot"
            written.add(slot)
            self._slots[slot] = hash((span.start + index, value))

    def _sample(self, span: TokenSpan, draw: Draw) -> Sampled:
        state = _SEED
        for position in range(span.start + len(span.tokens)):
            value = self._slots[self._slot(span, position)]
            assert value is not None, "only slots that were written are read"
            state = hash((state, value))
        token, is_eos = _next_token(state, draw.sampling, draw.index, self._eos_every)
        return Sampled(span.turn_id, token, is_eos)

    def _slot(self, span: TokenSpan, position: int) -> int:
        block_size = self.info.block_size
        return span.blocks[position // block_size] * block_size + position % block_size


def fake_pixels(digest: str, num_floats: int = 3) -> PixelImage:
    """An image whose content depends on ``digest`` alone."""
    seed = blake2b(digest.encode(), digest_size=4).digest()
    return PixelImage(digest=digest, shape=(num_floats,), data=seed * num_floats)


def reference_answer(
    turn: Turn,
    pixels: Mapping[str, PixelImage] | None = None,
    *,
    eos_every: int = 0,
    max_context: int | None = None,
) -> list[int]:
    """What a ``FakeRunner`` must answer: the slow, obvious way, from the whole conversation.

    Args:
        pixels: digest -> image; without it, those of ``fake_pixels``.
    """
    values: list[int] = list(turn.tokens)
    for image in turn.images:
        source = fake_pixels(image.digest) if pixels is None else pixels[image.digest]
        for row in range(image.length):
            values[image.start + row] = _row_value(_feature_value(source), row)
    answer: list[int] = []
    while len(answer) < turn.sampling.max_new_tokens:
        state = _SEED
        for position, value in enumerate(values):
            state = hash((state, hash((position, value))))
        token, is_eos = _next_token(state, turn.sampling, len(answer), eos_every)
        if is_eos and not turn.sampling.ignore_eos:
            break
        answer.append(token)
        values.append(token)
        if max_context is not None and len(values) >= max_context:
            break
    return answer


def _feature_value(image: PixelImage) -> int:
    return int.from_bytes(blake2b(image.data, digest_size=7).digest(), "little")


def _row_value(feature: int, row: int) -> int:
    return hash((feature, row))


def _next_token(state: int, sampling: Sampling, index: int, eos_every: int) -> tuple[int, bool]:
    """The token after a state, and whether it ends the answer."""
    if sampling.temperature > 0:
        state = hash((state, sampling.seed, index))
    if eos_every and state % eos_every == 0:
        return EOS_TOKEN, True
    return 3 + state % (VOCAB_SIZE - 3), False
