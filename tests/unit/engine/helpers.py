"""A bench for the engine: a fake runner, a clock that stands still, and turns in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.fake import FakeRunner, fake_pixels
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    ImageSpan,
    PixelsNeeded,
    Prefilled,
    Retention,
    Sampling,
    TokenOut,
    Turn,
)

IMAGE_TOKEN = 1


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Heard:
    """What one turn was told."""

    prefilled: Prefilled | None = None
    tokens: list[int] = field(default_factory=list)
    end: Finished | Failed | None = None
    asked_for: list[str] = field(default_factory=list)


class Bench:
    """An engine over a ``FakeRunner``; answers its questions for pixels unless told not to."""

    def __init__(
        self,
        *,
        runner: FakeRunner | None = None,
        limits: EngineLimits | None = None,
        answers_pixels: bool = True,
    ) -> None:
        self.clock = Clock()
        self.runner = runner or FakeRunner()
        self.engine = Engine(
            self.runner, limits or EngineLimits(), monotonic=self.clock, wall=self.clock
        )
        self.heard: dict[str, Heard] = {}
        self._answers_pixels = answers_pixels

    def add(self, turn: Turn) -> Heard:
        heard = self.heard[turn.turn_id] = Heard()
        self._hear(self.engine.add(turn))
        self.engine.check_integrity()
        return heard

    def cancel(self, turn_id: str) -> None:
        self._hear(self.engine.cancel(turn_id))
        self.engine.check_integrity()

    def step(self) -> None:
        self._hear(self.engine.step())
        self.engine.check_integrity()

    def run(self, *turns: Turn) -> list[Heard]:
        """Add turns and step until there is nothing left to do."""
        heard = [self.add(turn) for turn in turns]
        for _ in range(10_000):
            if not self.engine.has_work:
                return heard
            self.step()
        raise AssertionError("the engine does not come to an end")

    def _hear(self, events: Iterable[Event]) -> None:
        for event in events:
            heard = self.heard[event.turn_id]
            assert heard.end is None, "nothing follows the end of a turn"
            match event:
                case PixelsNeeded():
                    heard.asked_for.append(event.digest)
                    if self._answers_pixels:
                        self.engine.put_pixels(fake_pixels(event.digest))
                case Prefilled():
                    assert heard.prefilled is None
                    assert not heard.tokens
                    heard.prefilled = event
                case TokenOut():
                    assert heard.prefilled is not None
                    heard.tokens.append(event.token)
                case Finished() | Failed():
                    heard.end = event


def turn(
    turn_id: str,
    *parts: int | tuple[str, int] | Iterable[int],
    new: int = 4,
    retain: tuple[str, float] | None = None,
    sampling: Sampling | None = None,
) -> Turn:
    """A turn from its parts: a token, tokens, or an image as ``(digest, num_tokens)``."""
    tokens: list[int] = []
    images: list[ImageSpan] = []
    for part in parts:
        if isinstance(part, int):
            tokens.append(part)
        elif isinstance(part, tuple) and part and isinstance(part[0], str):
            images.append(ImageSpan(part[0], len(tokens), part[1]))
            tokens += [IMAGE_TOKEN] * part[1]
        else:
            tokens += part  # type: ignore[arg-type]
    return Turn(
        turn_id=turn_id,
        tokens=tuple(tokens),
        images=tuple(images),
        sampling=sampling or Sampling(max_new_tokens=new),
        retention=None if retain is None else Retention(*retain),
    )


def followed_by(previous: Turn, answer: Iterable[int], *more: int, turn_id: str) -> Turn:
    """The next turn of a conversation: everything so far and ``more``."""
    return Turn(
        turn_id=turn_id,
        tokens=(*previous.tokens, *answer, *more),
        images=previous.images,
        sampling=previous.sampling,
        retention=previous.retention,
    )
