"""How a picture is cut into tiles, and how many features that gives: what LLaVA-NeXT calls anyres.

A vision tower sees squares of one size. A picture of any size is shown to it several times: once
squeezed into a square as a whole, then, scaled to the best of a few resolutions, tile by tile. The
tiles' features are put together to one grid, rows and columns that saw only padding are cut away,
LLaVA-OneVision scales down a grid that is still too large, and a learned "newline" ends each row.

    whole  │ tiles, unpadded           tokens = grid² + rows · (columns + 1)
    ▢      │ ▢▢▢⏎
           │ ▢▢▢⏎

LLaVA-OneVision also takes the whole alone, with one newline behind it: transformers shows it so the
pictures of a conversation that has several.

Only sizes are reckoned with here; ``tower`` has transformers' own code do it with features, and
compares. Sources: arXiv 2408.03326 (OneVision), and ``pack_image_features`` of both models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers.image_processing_utils import select_best_resolution

from vlm_sessions.errors import ConfigError, InvalidImage

# A grid is scaled down when its side is larger than allowed by more than this factor.
POOLING_TOLERANCE = 1.1
POOLING_PREFIX = "anyres_max_"


@dataclass(frozen=True, slots=True)
class Tiling:
    """A checkpoint's rules for tiles."""

    side: int
    """Of a tile, in pixels."""
    grid: int
    """Features along a tile's side."""
    resolutions: tuple[tuple[int, int], ...]
    """Heights and widths in pixels that pictures are scaled to: multiples of ``side``."""
    max_pooled_tiles: int | None
    """The grid is scaled down to the features of about so many tiles; ``None``: it is not."""
    whole_only: bool = False
    """Whether pictures are shown as a whole and not tile by tile."""

    def num_tiles(self, width: int, height: int) -> int:
        """How often the tower sees a picture of this size in pixels, the whole included."""
        if self.whole_only:
            return 1
        rows, columns = self._resolution(width, height)
        return 1 + rows * columns // self.side**2

    def num_tokens(self, width: int, height: int) -> int:
        """Features of a picture of this size in pixels, and so its placeholders.

        Raises:
            InvalidImage: so elongated that nothing of it would be left.
        """
        if self.whole_only:
            return self.grid**2 + 1
        rows, columns = self._unpadded(width, height)
        if self.max_pooled_tiles is not None:
            ratio = math.sqrt(rows * columns / (self.max_pooled_tiles * self.grid**2))
            if ratio > POOLING_TOLERANCE:
                rows, columns = int(rows // ratio), int(columns // ratio)
                if not rows or not columns:
                    raise InvalidImage(
                        f"The image is {width} × {height} pixels, which is too elongated for this "
                        "model. Send a part of it."
                    )
        return self.grid**2 + rows * (columns + 1)

    def _unpadded(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the grid that saw something of the picture.

        The arithmetic is transformers' to the last rounding: a row more or less is a wrong answer.
        """
        height_scaled, width_scaled = self._resolution(width, height)
        rows = height_scaled // self.side * self.grid
        columns = width_scaled // self.side * self.grid
        if width / height > columns / rows:
            filled = int(round(height * (columns / width), 7))
            rows -= (rows - filled) // 2 * 2
        else:
            filled = int(round(width * (rows / height), 7))
            columns -= (columns - filled) // 2 * 2
        return rows, columns

    def _resolution(self, width: int, height: int) -> tuple[int, int]:
        best: tuple[int, int] = select_best_resolution((height, width), list(self.resolutions))
        return best


def make_tiling(*, side: int, grid: int, resolutions: object, aspect_ratio: str | None) -> Tiling:
    """The rules that a ``config.json`` states.

    Args:
        resolutions: its ``image_grid_pinpoints``.
        aspect_ratio: its ``vision_aspect_ratio``, such as ``anyres_max_9``, of models that have it.

    Raises:
        ConfigError: they cannot be followed.
    """
    pairs = [tuple(pair) for pair in resolutions] if isinstance(resolutions, list) else []
    if not pairs or not all(
        len(pair) == 2 and all(isinstance(n, int) and n > 0 and n % side == 0 for n in pair)
        for pair in pairs
    ):
        raise ConfigError(
            f"image_grid_pinpoints must be pairs of heights and widths that are multiples of the "
            f"vision tower's {side} pixels, and are {resolutions!r:.200}."
        )
    max_tiles = None
    if aspect_ratio is not None:
        number = aspect_ratio.removeprefix(POOLING_PREFIX)
        if not aspect_ratio.startswith(POOLING_PREFIX) or not number.isdecimal() or not int(number):
            raise ConfigError(
                f"vision_aspect_ratio is {aspect_ratio!r}; supported is {POOLING_PREFIX}N."
            )
        max_tiles = int(number)
    return Tiling(side, grid, tuple((h, w) for h, w in pairs), max_tiles)
