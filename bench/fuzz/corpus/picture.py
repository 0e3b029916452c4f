"""The picture meant: four plain quarters, so that any turn, flip or exchanged channel is seen."""

from __future__ import annotations

import io

from PIL import Image, ImageChops, ImageStat

WIDTH, HEIGHT = 64, 32
"""Multiples of 32: a quarter is whole blocks of a JPEG, also where its colours are halved."""
COLOURS = ((200, 30, 40), (30, 160, 60), (40, 60, 210), (230, 210, 70))
"""Top left, top right, bottom left, bottom right."""


def picture() -> Image.Image:
    """RGB, 64 × 32."""
    meant = Image.new("RGB", (WIDTH, HEIGHT))
    for index, colour in enumerate(COLOURS):
        left, top = index % 2 * WIDTH // 2, index // 2 * HEIGHT // 2
        meant.paste(colour, (left, top, left + WIDTH // 2, top + HEIGHT // 2))
    return meant


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def distance(one: Image.Image, other: Image.Image) -> float:
    """The largest mean difference of a channel, 0 to 255; 255 for pictures of other sizes."""
    if one.size != other.size:
        return 255.0
    return float(max(ImageStat.Stat(ImageChops.difference(one, other)).mean))
