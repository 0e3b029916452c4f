"""Streams in an engine of this process, and somebody who opens an image beside them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.measure import Clock, Quantiles
from bench.shapes import Shape
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import (
    Event,
    Failed,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.model.runner import make_runner

FIRST_WORD = 16
"""Token ids from here on are words, of which any may be asked."""
NUM_ASKED = 20
NUM_STEPS_BEFORE = 30
NUM_WARM_STEPS = 20
NUM_NEW = 3000


@dataclass(frozen=True, slots=True)
class Round:
    """One image opened beside streams. Gaps between tokens of a stream, and times, in ms."""

    before: Quantiles
    during: Quantiles
    ttft: float

    @property
    def ratio(self) -> float:
        return self.during.p50 / self.before.p50


class Streams:
    """An engine over a checkpoint. Pictures are noise, each another one."""

    def __init__(
        self, folder: Path, shape: Shape, share: float, seed: int, *, clock: Clock
    ) -> None:
        settings = Settings(device="cpu", dtype="float32", threads=1, prefill_share=share)
        limits = EngineLimits(prefill_share=share)
        self._engine = Engine(make_runner(settings, folder), limits, monotonic=clock)
        self._clock = clock
        self._shape = shape
        self._random = random.Random(seed)
        self._pictures: dict[str, PixelImage] = {}
        self._streams: list[str] = []
        self._num_turns = 0
        self._last: dict[str, float] = {}
        """stream -> when its last token came"""

    def open_alone(self) -> float:
        """TTFT in ms of an opener with the engine to itself."""
        started = self._clock()
        first: float | None = None
        opener = self._add(self._picture(), num_new=1)
        while first is None:
            first = self._step_until_token(opener)
        return (first - started) * 1e3

    def start_streams(self, count: int) -> None:
        """Let so many streams about one picture decode, and warm up."""
        picture = self._picture()
        self._streams = [self._add(picture, num_new=NUM_NEW) for _ in range(count)]
        while len(self._last) < count:
            self._gaps()
        for _ in range(NUM_WARM_STEPS):
            self._gaps()

    def stop_streams(self) -> None:
        for stream in self._streams:
            self._engine.cancel(stream)
        self._streams, self._last = [], {}

    def round(self) -> Round:
        """Open an image beside the streams."""
        self._gaps()  # the first since the last round: others had theirs meanwhile
        before = [gap for _ in range(NUM_STEPS_BEFORE) for gap in self._gaps()]
        started = self._clock()
        opener = self._add(self._picture(), num_new=1)
        during: list[float] = []
        first: float | None = None
        while first is None:
            first = self._step_until_token(opener, during)
        for _ in range(NUM_WARM_STEPS // 2):
            self._gaps()
        return Round(Quantiles.of(before), Quantiles.of(during), (first - started) * 1e3)

    def _gaps(self) -> list[float]:
        gaps: list[float] = []
        self._step_until_token("", gaps)
        return gaps

    def _step_until_token(self, turn_id: str, gaps: list[float] | None = None) -> float | None:
        """One step; collects the streams' gaps, and tells when a turn's token came, if it did."""
        came = None
        events = self._engine.step()
        now = self._clock()
        for event in events:
            if not isinstance(event, TokenOut):
                self._hear(event)
            elif event.turn_id == turn_id:
                came = now
            else:
                if gaps is not None and event.turn_id in self._last:
                    gaps.append((now - self._last[event.turn_id]) * 1e3)
                self._last[event.turn_id] = now
        return came

    def _add(self, picture: PixelImage, *, num_new: int) -> str:
        self._num_turns += 1
        num_image = self._shape.num_image_tokens
        words = self._random.choices(range(FIRST_WORD, 900), k=NUM_ASKED)
        turn = Turn(
            turn_id=str(self._num_turns),
            tokens=((0,) * num_image + tuple(words)),
            images=(ImageSpan(picture.digest, 0, num_image),),
            sampling=Sampling(max_new_tokens=num_new, ignore_eos=True),
        )
        for event in self._engine.add(turn):
            self._hear(event)
        return turn.turn_id

    def _hear(self, event: Event) -> None:
        match event:
            case PixelsNeeded():
                self._engine.put_pixels(self._pictures[event.digest])
            case Failed():
                raise RuntimeError(event.message)

    def _picture(self) -> PixelImage:
        side = self._shape.image_size
        noise = np.random.default_rng(self._random.getrandbits(32))
        pixels = noise.standard_normal((3, side, side), dtype=np.float32)
        picture = PixelImage(f"picture-{self._random.random()}", pixels.shape, pixels.tobytes())
        self._pictures[picture.digest] = picture
        return picture
