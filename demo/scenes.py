"""The world: up to six coloured shapes on a grid of three by three cells.

A scene is a pure description. It does not know how it is drawn (`draw`) nor how one talks about
it (`questions`), so that a picture and an answer can only agree because both are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
SIZES = ("small", "large")

NUM_ROWS = 3
NUM_COLUMNS = 3
NUM_CELLS = NUM_ROWS * NUM_COLUMNS
MAX_THINGS = 6

# direction -> (rows, columns) of one step
STEPS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a thing has to be like; None is 'any'. It is the meaning of "a large red circle"."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn shape. Cells count in reading order: 0 is the top left, 8 the bottom right."""

    colour: str
    shape: str
    size: str
    cell: int

    @property
    def row(self) -> int:
        return self.cell // NUM_COLUMNS

    @property
    def column(self) -> int:
        return self.cell % NUM_COLUMNS

    def is_a(self, kind: Kind) -> bool:
        return (
            kind.colour in (None, self.colour)
            and kind.shape in (None, self.shape)
            and kind.size in (None, self.size)
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in reading order, at most one in a cell."""

    things: tuple[Thing, ...]

    def at(self, cell: int) -> Thing | None:
        return next((thing for thing in self.things if thing.cell == cell), None)

    def matching(self, kind: Kind) -> tuple[Thing, ...]:
        """The things of that kind, in reading order."""
        return tuple(thing for thing in self.things if thing.is_a(kind))

    def has_twins(self) -> bool:
        """Whether two things are alike in colour and shape."""
        return len({(thing.colour, thing.shape) for thing in self.things}) < len(self.things)

    def beside(self, thing: Thing, direction: str) -> Thing | None:
        """The nearest thing that way in the same row (left, right) or column (above, below)."""
        step_row, step_column = STEPS[direction]
        row, column = thing.row + step_row, thing.column + step_column
        while 0 <= row < NUM_ROWS and 0 <= column < NUM_COLUMNS:
            found = self.at(row * NUM_COLUMNS + column)
            if found is not None:
                return found
            row, column = row + step_row, column + step_column
        return None

    def mirrored(self) -> Scene:
        """The scene of the picture flipped left to right."""
        flipped = (
            Thing(t.colour, t.shape, t.size, t.cell + NUM_COLUMNS - 1 - 2 * t.column)
            for t in self.things
        )
        return Scene(tuple(sorted(flipped, key=lambda thing: thing.cell)))


def random_scene(rng: Random, max_things: int = MAX_THINGS) -> Scene:
    """A scene of 0 to `max_things` things; the same state of `rng` gives the same scene.

    Half of the scenes choose from a few colours and shapes only: otherwise two red circles, or a
    red square beside a blue circle when the red circle is asked for, would hardly ever occur.
    """
    num_things = 0 if rng.random() < 0.03 else rng.randint(1, max_things)
    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    if rng.random() < 0.5:
        colours = tuple(rng.sample(COLOURS, rng.randint(1, 3)))
        shapes = tuple(rng.sample(SHAPES, rng.randint(1, 3)))
    cells = sorted(rng.sample(range(NUM_CELLS), num_things))
    return Scene(
        tuple(
            Thing(rng.choice(colours), rng.choice(shapes), rng.choice(SIZES), cell)
            for cell in cells
        )
    )
