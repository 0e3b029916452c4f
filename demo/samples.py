"""Makes the sample pictures and what can be said of them: `python -m demo.samples`.

Writes `demo/pictures/*` and `demo/pictures/conversations.json`, which maps a picture to one
conversation, a list of [question, answer]. The README and the tests use them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from demo.draw import CLEAN, Style, draw_scene
from demo.scenes import Scene, Thing

FOLDER = Path(__file__).parent / "pictures"


@dataclass(frozen=True)
class Sample:
    """One picture file, and a conversation about it: (question, answer) after each other."""

    file: str
    scene: Scene
    size: tuple[int, int]
    conversation: tuple[tuple[str, str], ...]
    style: Style = CLEAN


SAMPLES = (
    Sample(
        "shapes.png",
        Scene(
            (
                Thing("red", "circle", "large", 0),
                Thing("green", "triangle", "small", 2),
                Thing("blue", "square", "small", 4),
                Thing("red", "circle", "small", 6),
                Thing("yellow", "star", "large", 8),
            )
        ),
        (320, 320),
        (
            ("What is in the top left?", "a red circle"),
            ("How big is it?", "large"),
            ("Is there another one?", "yes"),
            ("Where is it?", "in the bottom left"),
            ("And in the bottom right?", "a yellow star"),
            ("What colour is it?", "yellow"),
            ("How many shapes are there?", "five"),
            ("Which is bigger, the blue square or the yellow star?", "the yellow star"),
        ),
    ),
    Sample(
        "stars.jpg",
        Scene(
            (
                Thing("purple", "star", "large", 1),
                Thing("orange", "star", "small", 3),
                Thing("black", "cross", "large", 5),
                Thing("purple", "star", "small", 7),
            )
        ),
        (400, 300),
        (
            (
                "Describe the picture.",
                "a large purple star at the top, a small orange star on the left, "
                "a large black cross on the right and a small purple star at the bottom",
            ),
            ("where are the purple stars", "at the top and at the bottom"),
            ("and the orange star?", "on the left"),
            ("WHAT IS RIGHT OF IT?", "a black cross"),
            ("Are there more stars than crosses?", "yes"),
            ("Is there a red star?", "no"),
        ),
        Style(jpeg=0.0, noise=1.0, blur=0.0),
    ),
    Sample(
        "wide.jpg",
        Scene(
            (
                Thing("green", "diamond", "large", 4),
                Thing("blue", "circle", "small", 5),
            )
        ),
        (640, 400),
        (
            (
                "What do you see?",
                "a large green diamond in the middle and a small blue circle on the right",
            ),
            ("where is the blue circle?", "on the right"),
            ("What is left of it?", "a green diamond"),
            ("Tell me a joke", "i only know pictures of drawn shapes"),
            ("How many circles are there?", "one"),
            ("and squares?", "none"),
        ),
    ),
)


def draw(sample: Sample) -> None:
    image = draw_scene(sample.scene, Random(sample.file), sample.style, sample.size)
    path = FOLDER / sample.file
    if path.suffix == ".jpg":
        image.save(path, quality=80)
    else:
        image.save(path, optimize=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for sample in SAMPLES:
        draw(sample)
    talks = {sample.file: sample.conversation for sample in SAMPLES}
    (FOLDER / "conversations.json").write_text(json.dumps(talks, indent=1) + "\n")


if __name__ == "__main__":
    main()
