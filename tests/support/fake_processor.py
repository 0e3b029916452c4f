"""A processor without a model: one token a byte, and tokens of its own around them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from PIL.Image import Image

from vlm_sessions.engine.types import ImageSpan, PixelImage
from vlm_sessions.errors import ReservedText
from vlm_sessions.processing import ImageRef, Message, Segment

IMAGE, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
USER, ASSISTANT = 259, 260
RESERVED = "<image>"


def encode(text: str) -> tuple[int, ...]:
    if RESERVED in text:
        raise ReservedText(f"{RESERVED} is reserved.")
    return tuple(FIRST_BYTE + byte for byte in text.encode())


class FakeDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(_to_bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class FakeProcessor:
    """``Processor``: an image has one token for each 16 x 16 pixels, at least one."""

    model_name = "fake"
    fingerprint = "fake"

    def __init__(self, *, max_context: int = 2000) -> None:
        self.max_context = max_context
        self.num_pixel_calls = 0

    def num_image_tokens(self, width: int, height: int) -> int:
        return max(1, (width // 16) * (height // 16))

    def encode_opening(self, system: str | None, images: Sequence[ImageRef]) -> Segment:
        return _with_images((BOS, *encode(system or ""), USER), images, ())

    def encode_turn(
        self, *, first: bool, system: str | None, text: str, images: Sequence[ImageRef]
    ) -> Segment:
        head = (BOS, *encode(system or ""), USER) if first else (EOS, USER)
        return _with_images(head, images, (*encode(text), ASSISTANT))

    def encode_conversation(self, messages: Sequence[Message]) -> Segment:
        tokens: tuple[int, ...] = (BOS,)
        spans: list[ImageSpan] = []
        for message in messages:
            if message.role == "system":
                tokens += encode(message.text)
            elif message.role == "assistant":
                tokens += (*encode(message.text), EOS)
            else:
                part = _with_images((USER,), message.images, (*encode(message.text), ASSISTANT))
                spans += [ImageSpan(s.digest, s.start + len(tokens), s.length) for s in part.images]
                tokens += part.tokens
        return Segment(tokens, tuple(spans))

    def decode(self, tokens: Sequence[int]) -> str:
        return _to_bytes(tokens).decode(errors="replace")

    def detokenizer(self) -> FakeDetokenizer:
        return FakeDetokenizer()

    def pixels(self, image: Image, digest: str) -> PixelImage:
        self.num_pixel_calls += 1
        assert image.mode == "RGB"
        return PixelImage(digest, (3,), bytes(12))


def _to_bytes(tokens: Sequence[int]) -> bytes:
    """Tokens beyond the bytes, which a fake runner makes, are letters."""
    return bytes(
        token - FIRST_BYTE if FIRST_BYTE <= token < USER else 97 + token % 26
        for token in tokens
        if token > EOS
    )


def _with_images(
    head: tuple[int, ...], images: Sequence[ImageRef], tail: tuple[int, ...]
) -> Segment:
    tokens = head
    spans: list[ImageSpan] = []
    for image in images:
        spans.append(ImageSpan(image.digest, len(tokens), image.num_tokens))
        tokens += (IMAGE,) * image.num_tokens
    return Segment(tokens + tail, tuple(spans))
