"""Encoded bytes to an RGB picture, as a person would see it, within limits.

Pillow's global settings are left alone: limits are checked here, on the header, before any pixel is
decoded.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_sessions.errors import InvalidImage, PayloadTooLarge, UnsupportedMedia

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is accepted, as Pillow names it: formats of the web, whose decoders are well tried."""

CONTENT_TYPES = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
}
"""Content type of a raw image body -> format. The bytes decide; this only refuses early."""

_FORMAT_NAMES = "JPEG, PNG, WebP, GIF and BMP"
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture: RGB, 8 bits a channel, turned upright."""

    picture: Image.Image
    format: str

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def height(self) -> int:
        return self.picture.height


def digest_bytes(content: bytes) -> str:
    """The name of an image everywhere: sha256 of its encoded bytes, hex."""
    return hashlib.sha256(content).hexdigest()


def check_content_type(content_type: str) -> None:
    """Refuse a raw body that does not claim to be an image we take.

    Raises:
        UnsupportedMedia: it does not.
    """
    name = content_type.partition(";")[0].strip().lower()
    if name not in CONTENT_TYPES and name not in ("", "application/octet-stream", "image/*"):
        raise UnsupportedMedia(f"{name[:80]} is not accepted. Send one of {_FORMAT_NAMES}.")


def decode_image(content: bytes, *, max_megapixels: int) -> DecodedImage:
    """Decode an image completely. Takes milliseconds and more: call it off the event loop.

    The first frame of an animation counts. Transparency is laid over white.

    Raises:
        InvalidImage: the bytes are no image of an accepted format, or a broken one.
        PayloadTooLarge: it has more pixels than allowed; found out before decoding.
    """
    if not content:
        raise InvalidImage("An image is empty. Send the bytes of a picture.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image, max_megapixels)
            image.load()
            return DecodedImage(_to_rgb(ImageOps.exif_transpose(image)), image.format or "")
    except Image.DecompressionBombError as exc:
        raise _too_many_pixels(max_megapixels) from exc
    except UnidentifiedImageError as exc:
        raise InvalidImage(
            f"An image is not one of {_FORMAT_NAMES}, or its beginning is damaged."
        ) from exc
    # What Pillow's decoders raise for damaged data, by its own documentation and its fuzzers.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as exc:
        raise InvalidImage("An image is damaged or cut short. Send the whole file.") from exc


def _check_size(image: Image.Image, max_megapixels: int) -> None:
    if image.width * image.height > max_megapixels * 1_000_000:
        raise _too_many_pixels(max_megapixels)


def _too_many_pixels(max_megapixels: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"An image has more than {max_megapixels} megapixels, which is the limit. "
        "Send a smaller one; VLM_MAX_IMAGE_MEGAPIXELS raises the limit."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """What a viewer would show."""
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        # Pillow clips 16-bit grey at 255 where a viewer scales it.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
