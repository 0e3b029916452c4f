"""Drawn scenes as JPEGs of several sizes, each unlike any other to whoever goes by their bytes."""

from __future__ import annotations

import io
from random import Random

from demo.draw import CLEAN, draw_scene
from demo.scenes import random_scene

SIZES = ((224, 224), (448, 448), (640, 480), (1280, 960))
"""Pixels: a thumbnail, a crop, a small and an ordinary photograph."""
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


class Pictures:
    """A few scenes, drawn once. Each picture that is given has a comment of its own in it: so it
    costs next to nothing, and no cache knows it, although it shows what others do.
    """

    def __init__(self, random: Random, num_scenes: int = len(SIZES)) -> None:
        self._random = random
        self._encoded = [_encode(random, SIZES[n % len(SIZES)]) for n in range(num_scenes)]

    def any(self) -> bytes:
        """Another picture, of a scene by chance."""
        return self.of(self._random.randrange(len(self._encoded)))

    def of(self, scene: int) -> bytes:
        """Another picture of a scene, by its number."""
        comment = self._random.randbytes(16)
        segment = _COMMENT + (len(comment) + 2).to_bytes(2) + comment
        return _START_OF_IMAGE + segment + self._encoded[scene].removeprefix(_START_OF_IMAGE)


def _encode(random: Random, size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    drawn = draw_scene(random_scene(random), random, CLEAN, size)
    drawn.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
