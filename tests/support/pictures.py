"""Small pictures, encoded, for tests."""

from __future__ import annotations

import base64
import io

from PIL import Image


def encoded(
    color: str = "red", size: tuple[int, int] = (32, 32), image_format: str = "PNG"
) -> bytes:
    return encode_image(Image.new("RGB", size, color), image_format)


def encode_image(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
