"""Draws a scene as people's pictures come: any size, tilted, soft, noisy, JPEG-compressed.

Everything is drawn at twice the size and reduced, which is the anti-aliasing. A thing never leaves
its cell: the cell is what it is said to be in.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes import NUM_COLUMNS, NUM_ROWS, Scene

RGB = tuple[int, int, int]
Point = tuple[float, float]

# colour -> shades of it; one is taken and jittered
PALETTE: dict[str, tuple[RGB, ...]] = {
    "red": ((220, 30, 35), (200, 15, 25), (235, 50, 50)),
    "orange": ((255, 140, 0), (245, 130, 20), (250, 150, 40)),
    "yellow": ((250, 220, 20), (255, 235, 40), (240, 210, 10)),
    "green": ((30, 150, 50), (20, 120, 40), (60, 180, 70)),
    "blue": ((30, 80, 220), (20, 60, 180), (50, 110, 240)),
    "purple": ((130, 40, 160), (150, 50, 190), (110, 30, 140)),
    "black": ((15, 15, 15), (30, 30, 32), (5, 5, 8)),
}
SUPERSAMPLING = 2
# size -> radius, as a share of the shorter side of a cell
RADIUS = {"small": (0.19, 0.26), "large": (0.36, 0.45)}


@dataclass(frozen=True, slots=True)
class Style:
    """How much a picture may vary. The default is what the model is trained on."""

    min_side: int = 96
    max_side: int = 288
    max_aspect: float = 1.7
    max_tilt: float = 12.0  # degrees
    jpeg: float = 0.5  # probability
    min_quality: int = 25
    blur: float = 0.25  # probability
    noise: float = 0.25  # probability


CLEAN = Style(
    min_side=320, max_side=320, max_aspect=1.0, max_tilt=0.0, jpeg=0.0, blur=0.0, noise=0.0
)


def draw_scene(
    scene: Scene, rng: Random, style: Style | None = None, size: tuple[int, int] | None = None
) -> Image.Image:
    """Draws `scene` in RGB; `size` is (width, height) in pixels, by default chosen by `style`."""
    style = style or Style()
    width, height = size or _random_size(rng, style)
    canvas = _background(scene, rng, width * SUPERSAMPLING, height * SUPERSAMPLING)
    pen = ImageDraw.Draw(canvas)
    cell_width = canvas.width / NUM_COLUMNS
    cell_height = canvas.height / NUM_ROWS
    cell = min(cell_width, cell_height)
    for thing in scene.things:
        radius = rng.uniform(*RADIUS[thing.size]) * cell
        x = (thing.column + 0.5) * cell_width + _jitter(rng, cell_width / 2 - radius)
        y = (thing.row + 0.5) * cell_height + _jitter(rng, cell_height / 2 - radius)
        tilt = math.radians(rng.uniform(-style.max_tilt, style.max_tilt))
        outline = _outline(pen, thing.shape, (x, y), radius, tilt)
        fill = _jittered(rng.choice(PALETTE[thing.colour]), rng, 12)
        edge = rng.random()
        if edge < 0.25:
            rim: RGB | None = _scaled(fill, 0.6) if edge < 0.15 else (20, 20, 20)
        else:
            rim = None
        outline.draw(fill, rim, max(1, round(radius * 0.08)))
    return _worn(canvas.reduce(SUPERSAMPLING), rng, style)


@dataclass(frozen=True, slots=True)
class _Outline:
    pen: ImageDraw.ImageDraw
    points: Sequence[Point]  # the corners; for a circle its bounding box
    round: bool

    def draw(self, fill: RGB, rim: RGB | None, width: int) -> None:
        if self.round:
            self.pen.ellipse([*self.points], fill=fill, outline=rim, width=width if rim else 0)
            return
        self.pen.polygon([*self.points], fill=fill)
        if rim:
            self.pen.line([*self.points, self.points[0]], fill=rim, width=width, joint="curve")


def _outline(
    pen: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float, tilt: float
) -> _Outline:
    x, y = centre
    if shape == "circle":
        return _Outline(pen, [(x - radius, y - radius), (x + radius, y + radius)], round=True)
    cos, sin = math.cos(tilt), math.sin(tilt)
    points = [
        (x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos))
        for u, v in CORNERS[shape]
    ]
    return _Outline(pen, points, round=False)


def _star() -> list[Point]:
    points = []
    for k in range(10):
        radius = 1.05 if k % 2 == 0 else 0.45
        angle = math.pi * k / 5 - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle) + 0.05))
    return points


def _cross(arm: float = 0.32) -> list[Point]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    points = []
    for _ in range(4):
        points += quarter
        quarter = [(-v, u) for u, v in quarter]
    return points


# shape -> corners around the origin, within a circle of radius about 1
CORNERS: dict[str, list[Point]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -1.0), (0.98, 0.82), (-0.98, 0.82)],
    "star": _star(),
    "diamond": [(0.0, -1.05), (0.78, 0.0), (0.0, 1.05), (-0.78, 0.0)],
    "cross": _cross(),
}


def _random_size(rng: Random, style: Style) -> tuple[int, int]:
    side = rng.uniform(style.min_side, style.max_side)
    limit = math.log(style.max_aspect)
    aspect = math.exp(rng.uniform(-limit, limit)) if rng.random() < 0.5 else 1.0
    return max(32, round(side * math.sqrt(aspect))), max(32, round(side / math.sqrt(aspect)))


def _jitter(rng: Random, room: float) -> float:
    return rng.uniform(-0.8, 0.8) * max(0.0, min(room, room * 0.75))


def _jittered(colour: RGB, rng: Random, amount: int) -> RGB:
    red, green, blue = (
        min(255, max(0, channel + rng.randint(-amount, amount))) for channel in colour
    )
    return red, green, blue


def _scaled(colour: RGB, factor: float) -> RGB:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


def _background(scene: Scene, rng: Random, width: int, height: int) -> Image.Image:
    """White, a light tint, a gradient of two, or dark where nothing black would drown in it."""
    choice = rng.random()
    if choice < 0.35:
        return Image.new("RGB", (width, height), (255, 255, 255))
    if choice < 0.45 and all(thing.colour != "black" for thing in scene.things):
        grey = rng.randint(35, 75)
        return Image.new("RGB", (width, height), _jittered((grey, grey, grey), rng, 10))
    light = [_tint(rng), _tint(rng)]
    if choice < 0.75:
        return Image.new("RGB", (width, height), light[0])
    ramp = Image.linear_gradient("L").resize((width, height))
    if rng.random() < 0.5:
        ramp = ramp.transpose(Image.Transpose.ROTATE_180)
    return Image.composite(
        Image.new("RGB", (width, height), light[0]),
        Image.new("RGB", (width, height), light[1]),
        ramp,
    )


def _tint(rng: Random) -> RGB:
    grey = rng.randint(175, 245)
    return _jittered((grey, grey, grey), rng, 14)


def _worn(image: Image.Image, rng: Random, style: Style) -> Image.Image:
    """The picture after it was photographed, mailed and saved again."""
    if rng.random() < style.blur:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 0.006 * image.width + 0.3)))
    if rng.random() < style.noise:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(
            0.0, rng.uniform(2.0, 12.0), (image.height, image.width, 1)
        )
        pixels = np.asarray(image, dtype=np.float32) + noise
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < style.jpeg:
        image = as_jpeg(image, rng.randint(style.min_quality, 95))
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The same picture after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
