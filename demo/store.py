"""The training pictures and what is under each of their patches.

A picture is made from its number alone, so a scene, its picture and its labels can be had anywhere
and always agree. The store on disk only saves drawing a picture again each time it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.draw import draw_scene
from demo.model import IMAGE_SIZE, PATCH_SIZE
from demo.scenes import COLOURS, NUM_COLUMNS, NUM_ROWS, SHAPES, SIZES, Scene, random_scene

# pictures of training have seeds from 0, held-out ones from here: they never meet
HELD_OUT = 1_000_000_000
_CHUNK = 500


def make_scene(seed: int) -> Scene:
    return random_scene(Random(seed))


def make_picture(seed: int) -> Image.Image:
    """The picture of `make_scene(seed)`, any size."""
    return draw_scene(make_scene(seed), Random(f"drawing of {seed}"))


def squeezed(image: Image.Image) -> npt.NDArray[np.uint8]:
    """As the image processor does it: (96, 96, 3) uint8."""
    small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def _draw_chunk(first: int) -> npt.NDArray[np.uint8]:
    return np.stack([squeezed(make_picture(seed)) for seed in range(first, first + _CHUNK)])


def draw_store(
    path: Path, num_pictures: int, num_workers: int, progress: Callable[[int], None]
) -> npt.NDArray[np.uint8]:
    """All training pictures, (num_pictures, 96, 96, 3) uint8, mapped from a file.

    Drawn at the first call; `progress` is told the number of pictures after each chunk.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        shape = (num_pictures, IMAGE_SIZE, IMAGE_SIZE, 3)
        store = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        with ProcessPoolExecutor(num_workers) as pool:
            starts = range(0, num_pictures, _CHUNK)
            for first, chunk in zip(starts, pool.map(_draw_chunk, starts), strict=True):
                store[first : first + _CHUNK] = chunk[: num_pictures - first]
                progress(len(chunk))
        store.flush()
        del store
        partial.rename(path)
    pictures: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


# --- labels of patches, from which the vision tower learns first

# label -> number of its classes; class 0 of the first four is "empty"
PATCH_LABELS = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
    "thing": len(COLOURS) * len(SHAPES) + 1,
    "cell": NUM_ROWS * NUM_COLUMNS,
}


def patch_labels(scene: Scene) -> npt.NDArray[np.int64]:
    """What is in the cell that each patch lies in: (64, 5), columns as in `PATCH_LABELS`."""
    cells = np.zeros((NUM_ROWS * NUM_COLUMNS, len(PATCH_LABELS)), dtype=np.int64)
    cells[:, 4] = np.arange(len(cells))
    for thing in scene.things:
        colour, shape = COLOURS.index(thing.colour), SHAPES.index(thing.shape)
        cells[thing.cell, :4] = (
            colour + 1,
            shape + 1,
            SIZES.index(thing.size) + 1,
            colour * len(SHAPES) + shape + 1,
        )
    side = IMAGE_SIZE // PATCH_SIZE
    row = (np.arange(side) * 2 + 1) * NUM_ROWS // (2 * side)  # of a patch's middle
    labels: npt.NDArray[np.int64] = cells[(row[:, None] * NUM_COLUMNS + row[None, :]).reshape(-1)]
    return labels
