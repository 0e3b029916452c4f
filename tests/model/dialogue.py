"""Sessions without a server: conversations driven through processor, engine and runner.

What the session layer does in production, in forty lines and in step: the record is a list of
token ids and images, and every turn hands the whole of it to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import (
    Failed,
    Finished,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Prefilled,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.processing import ImageRef, Processor


@dataclass
class Dialogue:
    """The record of one conversation."""

    key: str
    system: str | None = None
    tokens: list[int] = field(default_factory=list)
    images: list[ImageSpan] = field(default_factory=list)
    pixels: list[PixelImage] = field(default_factory=list)
    """One for each image, in order."""
    beginnings: list[tuple[int, int]] = field(default_factory=list)
    """How many tokens and images there were before each turn."""

    def ask(self, processor: Processor, text: str, pictures: Sequence[Image.Image] = ()) -> None:
        """Append a user's turn."""
        self.beginnings.append((len(self.tokens), len(self.images)))
        refs = []
        for picture in pictures:
            digest = f"{hash(picture.tobytes()):x}"
            num_tokens = processor.num_image_tokens(picture.width, picture.height)
            refs.append(ImageRef(digest, num_tokens))
            self.pixels.append(processor.pixels(picture, digest))
        segment = processor.encode_turn(
            first=not self.tokens, system=self.system, text=text, images=refs
        )
        offset = len(self.tokens)
        self.images += [ImageSpan(s.digest, s.start + offset, s.length) for s in segment.images]
        self.tokens += segment.tokens

    def fork(self, key: str) -> Dialogue:
        """Another dialogue that has said the same so far."""
        return Dialogue(
            key,
            self.system,
            list(self.tokens),
            list(self.images),
            list(self.pixels),
            list(self.beginnings),
        )

    def rewind(self, num_turns: int) -> None:
        """Take back the last turns, images and all."""
        num_tokens, num_images = self.beginnings[-num_turns]
        del self.tokens[num_tokens:], self.images[num_images:], self.pixels[num_images:]
        del self.beginnings[-num_turns:]


@dataclass
class Outcome:
    answer: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    images_encoded: int = 0


def answer_all(
    engine: Engine, dialogues: Sequence[Dialogue], sampling: Sampling
) -> dict[str, Outcome]:
    """Answer the last question of every dialogue, all in one batch, and record the answers."""
    outcomes = {dialogue.key: Outcome() for dialogue in dialogues}
    pixels = {image.digest: image for dialogue in dialogues for image in dialogue.pixels}
    events = []
    for dialogue in dialogues:
        turn = Turn(dialogue.key, tuple(dialogue.tokens), tuple(dialogue.images), sampling)
        events += engine.add(turn)
    unfinished = set(outcomes)
    while unfinished:
        for event in events:
            match event:
                case PixelsNeeded():
                    engine.put_pixels(pixels[event.digest])
                case Prefilled():
                    outcomes[event.turn_id].cached_tokens = event.cached_tokens
                    outcomes[event.turn_id].images_encoded = event.images_encoded
                case TokenOut():
                    outcomes[event.turn_id].answer.append(event.token)
                case Finished():
                    unfinished.discard(event.turn_id)
                case Failed():
                    raise AssertionError(event.message)
        if unfinished:
            events = engine.step()
    engine.check_integrity()
    for dialogue in dialogues:
        dialogue.tokens += outcomes[dialogue.key].answer
    return outcomes
