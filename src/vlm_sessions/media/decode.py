"""Encoded bytes to an RGB picture, as a person would see it, within limits.

What is not the picture is left out first (``strip``). Pillow's global settings are left alone:
limits are checked here, on the header, before any pixel is decoded.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from vlm_sessions.errors import InvalidImage, PayloadTooLarge, UnsupportedMedia
from vlm_sessions.media.strip import strip_image
from vlm_sessions.media.viewing import Layout, as_viewed

_PLUGINS = {
    "JPEG": JpegImagePlugin,
    "PNG": PngImagePlugin,
    "WEBP": WebPImagePlugin,
    "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin,
}
FORMATS = tuple(_PLUGINS)
"""What is accepted, as Pillow names it: formats of the web, whose decoders are well tried. Their
plugins are imported above, for Pillow imports all that it has when asked for one that is not."""

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
_BI_RLE8, _BI_RLE4 = 1, 2
_BMP_START = struct.Struct("<2s12xI12xI")
"""The signature, the size of the header after the file's own, and its biCompression."""

# What Pillow's decoders raise for damaged data, by its own documentation and by our fuzzing.
_DAMAGE = (
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
)


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
    if _is_run_length_bmp(content):
        raise InvalidImage("A BMP is compressed, which is not supported. Save it as PNG.")
    picture_only = io.BytesIO(strip_image(content))
    try:
        with Image.open(picture_only, formats=FORMATS) as image:
            _check_size(image, max_megapixels)
            layout = Layout.of(image)
            image.load()
            return DecodedImage(as_viewed(image, layout), image.format or "")
    except Image.DecompressionBombError as exc:
        raise _too_many_pixels(max_megapixels) from exc
    except UnidentifiedImageError as exc:
        raise InvalidImage(
            f"An image is not one of {_FORMAT_NAMES}, or its beginning is damaged."
        ) from exc
    except _DAMAGE as exc:
        raise InvalidImage("An image is damaged or cut short. Send the whole file.") from exc


def _is_run_length_bmp(content: bytes) -> bool:
    """Pillow decodes these byte by byte in Python: 4 kB of them keep the GIL busy for seconds."""
    if len(content) < _BMP_START.size:
        return False
    signature, header_bytes, compression = _BMP_START.unpack_from(content)
    long_header = signature == b"BM" and header_bytes >= 40  # a short one has no such field
    return long_header and compression in (_BI_RLE8, _BI_RLE4)


def _check_size(image: Image.Image, max_megapixels: int) -> None:
    if image.width * image.height > max_megapixels * 1_000_000:
        raise _too_many_pixels(max_megapixels)


def _too_many_pixels(max_megapixels: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"An image has more than {max_megapixels} megapixels, which is the limit. "
        "Send a smaller one; VLM_MAX_IMAGE_MEGAPIXELS raises the limit."
    )
