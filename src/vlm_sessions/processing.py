"""The contract between the session layer and a model's text and image processing.

The session layer keeps a conversation as token ids; only the model's own tokenizer, chat template
and image processor can make them. ``model.processor`` implements this with transformers; tests use
a small fake. A conversation is built piece by piece, and the pieces, concatenated with the answers'
token ids between them, are the conversation: nothing is ever tokenized twice.

    first turn:   [bos, system, user text with images, generation prompt]   answer ids
    later turns:  [end of answer, user text with images, generation prompt] answer ids   …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL.Image import Image

from vlm_sessions.engine.types import ImageSpan, PixelImage


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a conversation needs it: ``num_tokens`` placeholders, its content's digest."""

    digest: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. Its images stand before its text."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive token ids; ``images`` have their starts relative to the segment."""

    tokens: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()


class Detokenizer(Protocol):
    """Turns token ids into text as they come, holding back bytes of unfinished characters."""

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        ...

    def flush(self) -> str:
        """What was held back."""
        ...


class Processor(Protocol):
    """Text and images of one model. Thread-safe; no method keeps state between calls."""

    @property
    def model_name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Differs wherever the same words or pictures would become other tokens.

        A conversation recorded under one fingerprint can be continued under no other.
        """
        ...

    @property
    def max_context(self) -> int:
        """Positions of the model: tokens of prompt and answer together."""
        ...

    def num_image_tokens(self, width: int, height: int) -> int:
        """Placeholders for an image of this size, in pixels.

        Raises:
            InvalidImage: the model cannot be shown an image of this shape.
        """
        ...

    def encode_opening(self, system: str | None, images: Sequence[ImageRef]) -> Segment:
        """The tokens of a conversation that are certain before its first question is asked.

        A prefix of what ``encode_turn(first=True)`` gives for the same system text and images, up
        to and including the last image; without images, up to the user's text.

        Raises:
            ReservedText: ``system`` contains a token that the model reserves.
        """
        ...

    def encode_turn(
        self, *, first: bool, system: str | None, text: str, images: Sequence[ImageRef]
    ) -> Segment:
        """What a user's turn adds to the conversation, generation prompt included.

        With ``first`` this begins the conversation; otherwise it begins with whatever ends the
        answer before it (an end-of-sequence token for LLaVA; an answer's own ids never hold it).

        Raises:
            ReservedText: ``text`` or ``system`` contains a token that the model reserves.
        """
        ...

    def encode_conversation(self, messages: Sequence[Message]) -> Segment:
        """A whole conversation that ends with a user's message, generation prompt included.

        Raises:
            ReservedText: a text contains a token that the model reserves.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """An answer's text, special tokens left out."""
        ...

    def detokenizer(self) -> Detokenizer: ...

    def pixels(self, image: Image, digest: str) -> PixelImage:
        """Resize and normalise a decoded RGB image. Takes milliseconds: call it off the loop.

        Raises:
            InvalidImage: as ``num_image_tokens`` does.
        """
        ...
