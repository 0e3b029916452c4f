"""Pictures for simulated clients, and a processor that looks at them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, sha256

from PIL.Image import Image
from PIL.Image import new as new_image

from tests.support.fake_processor import FakeProcessor
from tests.support.pictures import encode_image
from vlm_sessions.engine.types import PixelImage
from vlm_sessions.processing import ImageRef
from vlm_sessions.protocol.schema import ImageInput, InlineImage, RawImage

SIZES = ((16, 16), (32, 16), (32, 32), (48, 32), (48, 48))


@dataclass(frozen=True)
class Picture:
    """What a client sends, and what the product should make of it."""

    content: bytes
    digest: str
    num_tokens: int
    pixels: PixelImage

    @property
    def ref(self) -> ImageRef:
        return ImageRef(self.digest, self.num_tokens)

    def as_input(self, *, raw: bool) -> ImageInput:
        if raw:
            return RawImage(content=self.content, content_type="image/png")
        return InlineImage(data=base64.b64encode(self.content).decode())


@cache
def picture(number: int) -> Picture:
    """The same picture for the same number; any two differ in what they show."""
    colour = (number % 256, number // 256 % 256, 128)
    width, height = SIZES[number % len(SIZES)]
    image = new_image("RGB", (width, height), colour)
    content = encode_image(image)
    digest = sha256(content).hexdigest()
    num_tokens = SimulatedProcessor().num_image_tokens(width, height)
    return Picture(content, digest, num_tokens, _look_at(image, digest))


class SimulatedProcessor(FakeProcessor):
    """A ``FakeProcessor`` that makes other pixels of other pictures."""

    def pixels(self, image: Image, digest: str) -> PixelImage:
        return _look_at(image, digest)


def _look_at(image: Image, digest: str) -> PixelImage:
    shown = blake2b(image.tobytes(), digest_size=12).digest()
    return PixelImage(digest, (3,), shown)
