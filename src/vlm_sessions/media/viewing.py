"""A decoded image as a viewer would show it: RGB, 8 bits a channel, upright, on white.

What Pillow leaves to its caller: the scale of 16-bit grey, transparent colours at other depths than
8 bits, what a GIF's first frame does not cover, the orientation of a photograph.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Exif's orientation -> what puts it upright. Source: CIPA DC-008 (Exif), tag Orientation."""

_SIXTEEN_BIT_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
# How a PNG's file holds grey of less than 8 bits -> what Pillow multiplies it by.
_GREY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file holds its pixels: known until they are loaded."""

    box: tuple[int, int, int, int] | None
    """The part that they cover: left, top, right, bottom. ``None``: all of it."""
    raw_mode: str
    """Pillow's word for their form; empty where it does not matter."""

    @classmethod
    def of(cls, image: Image.Image) -> Layout:
        """Of an image that was opened and not loaded."""
        tiles = getattr(image, "tile", [])
        if not tiles:
            return cls(None, "")
        _, box, _, arguments = tiles[0]
        whole = box is None or box == (0, 0, *image.size)
        return cls(None if whole else box, arguments if isinstance(arguments, str) else "")


def as_viewed(image: Image.Image, layout: Layout) -> Image.Image:
    """A loaded image as RGB. May change ``image``'s ``info``; its orientation may be nonsense."""
    _scale_transparent_colour(image, layout.raw_mode)
    picture = _to_rgb(image)
    if layout.box is not None:
        shown = picture.crop(layout.box)
        picture = Image.new("RGB", image.size, "white")
        picture.paste(shown, layout.box)
    turn = _TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _scale_transparent_colour(image: Image.Image, raw_mode: str) -> None:
    """Bring it from the file's depth to 8 bits, as Pillow does with the pixels alone.

    Of 16 bits the upper 8 are compared, since no others are left of the pixels.
    """
    colour = image.info.get("transparency")
    if colour is None or isinstance(colour, bytes) or image.mode == "P":
        return
    channels = colour if isinstance(colour, tuple) else (colour,)
    if image.mode in _SIXTEEN_BIT_GREY or raw_mode.endswith(";16B"):
        channels = tuple(value >> 8 for value in channels)
    else:
        channels = tuple(value * _GREY_SCALES.get(raw_mode, 1) for value in channels)
    if max(channels) > 255:  # no pixel has it
        del image.info["transparency"]
    else:
        image.info["transparency"] = channels if isinstance(colour, tuple) else channels[0]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_GREY:
        # Pillow clips 16-bit grey at 255 where a viewer scales it.
        grey = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if "transparency" in image.info:
            grey.info["transparency"] = image.info["transparency"]
        image = grey
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Exif's; 1, upright, where there is none or none that can be read: the picture is still good.

    What is caught is what Pillow raises for Exif that is not what it says.
    """
    try:
        value = image.getexif().get(_ORIENTATION)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1
