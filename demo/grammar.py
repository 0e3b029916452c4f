"""The words: how things, places and numbers are named. Every text here is in lower case.

Answers use one form only, so that an answer is right or wrong and nothing between; questions may
use any of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from demo.scenes import Kind, Scene, Thing

NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "diamond": "diamonds",
    "cross": "crosses",
}
NOUN, NOUNS = "shape", "shapes"
# what people also say for "shape"; "one" needs an adjective before it
NOUN_SYNONYMS = ("object", "thing")
NOUNS_SYNONYMS = ("objects", "things", "ones")
SIZE_SYNONYMS = {"large": ("big",), "small": ("little", "tiny")}
# colours and shapes that people ask for and that no picture has; "qwx" stands for any other word
FOREIGN_COLOURS = ("white", "pink", "brown", "grey", "gray")
FOREIGN_SHAPES = ("heart", "rectangle", "hexagon", "oval", "qwx", "qwx", "qwx")

# cell -> names, the first of them is the one in answers
PLACES: tuple[tuple[str, ...], ...] = (
    ("in the top left", "in the top left corner", "in the upper left", "at the top left"),
    ("at the top", "in the top middle", "in the top centre", "at the top in the middle"),
    ("in the top right", "in the top right corner", "in the upper right", "at the top right"),
    ("on the left", "in the middle left", "on the left in the middle", "at the left"),
    ("in the middle", "in the centre", "in the center", "at the centre"),
    ("on the right", "in the middle right", "on the right in the middle", "at the right"),
    ("in the bottom left", "in the bottom left corner", "in the lower left", "at the bottom left"),
    (
        "at the bottom",
        "in the bottom middle",
        "in the bottom centre",
        "at the bottom in the middle",
    ),
    (
        "in the bottom right",
        "in the bottom right corner",
        "in the lower right",
        "at the bottom right",
    ),
)

# direction -> names
DIRECTIONS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

NOTHING = "nothing"
NOTHING_THERE = "there is nothing there"
EMPTY = "an empty picture"
YES, NO = "yes", "no"
SAME_SIZE = "they are the same size"
WHICH_ONE = "which one do you mean"
SHOW_ME = "please show me a picture"
OUT_OF_WORLD = "i only know pictures of drawn shapes"


def yes_no(truth: bool) -> str:
    return YES if truth else NO


def name(kind: Kind) -> str:
    """ "large red circle", "red shape", "shape"."""
    words = (kind.size, kind.colour, kind.shape or NOUN)
    return " ".join(word for word in words if word)


def names(kind: Kind) -> str:
    """ "large red circles", "red shapes", "shapes"."""
    words = (kind.size, kind.colour, PLURALS[kind.shape] if kind.shape else NOUNS)
    return " ".join(word for word in words if word)


def a(noun_phrase: str) -> str:
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def a_thing(thing: Thing) -> str:
    """ "a red circle": size is left out, it is asked for."""
    return a(name(Kind(thing.colour, thing.shape)))


def place(cell: int) -> str:
    return PLACES[cell][0]


def listed(parts: Sequence[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def places(things: Sequence[Thing]) -> str:
    return listed([place(thing.cell) for thing in things])


def description(scene: Scene) -> str:
    if not scene.things:
        return EMPTY
    return listed(
        [f"{a(name(Kind(t.colour, t.shape, t.size)))} {place(t.cell)}" for t in scene.things]
    )


def not_one(kind: Kind, num_found: int) -> str:
    """What one says when "the red circle" is not exactly one."""
    if num_found == 0:
        return f"there is no {name(kind)}"
    return f"there are {NUMBERS[num_found]} {names(kind)}"


def spoken_place(rng: Random, cell: int) -> str:
    return PLACES[cell][0] if rng.random() < 0.5 else rng.choice(PLACES[cell])


def spoken_size(rng: Random, size: str) -> str:
    if rng.random() < 0.6:
        return size
    return rng.choice(SIZE_SYNONYMS[size])


def spoken_name(rng: Random, kind: Kind) -> str:
    """As `name`, in any of the words that people use."""
    noun = kind.shape
    if noun is None:
        noun = NOUN if rng.random() < 0.5 else rng.choice(NOUN_SYNONYMS)
        if (kind.colour or kind.size) and rng.random() < 0.2:
            noun = "one"
    words = (kind.size and spoken_size(rng, kind.size), kind.colour, noun)
    return " ".join(word for word in words if word)


def spoken_names(rng: Random, kind: Kind) -> str:
    """As `names`, in any of the words that people use."""
    if kind.shape is not None:
        nouns = PLURALS[kind.shape]
    else:
        nouns = NOUNS if rng.random() < 0.5 else rng.choice(NOUNS_SYNONYMS)
        if nouns == "ones" and not (kind.colour or kind.size):
            nouns = NOUNS
    words = (kind.size and spoken_size(rng, kind.size), kind.colour, nouns)
    return " ".join(word for word in words if word)
