"""Chooses what to ask about, so that every answer comes up often enough to be learned.

Chance alone would nearly always ask for things that are not there.
"""

from __future__ import annotations

from random import Random

from demo.grammar import a, spoken_size
from demo.scenes import COLOURS, NUM_CELLS, SHAPES, SIZES, Kind, Scene, Thing


def an(text: str) -> str:
    """People say "an orange circle", mostly."""
    return text.replace(" a orange ", " an orange ").replace(" a object", " an object")


def choose_cell(rng: Random, scene: Scene, empty: float = 0.2) -> int:
    if scene.things and rng.random() >= empty:
        return rng.choice(scene.things).cell
    return rng.randrange(NUM_CELLS)


def partial_kind(rng: Random, thing: Thing | None, num_attributes: int, sizes: bool = True) -> Kind:
    """What `thing` is in that many of its attributes (invented ones where there is no thing)."""
    if thing is None:
        thing = Thing(rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(SIZES), 0)
    if num_attributes == 3:
        return Kind(thing.colour, thing.shape, thing.size)
    if num_attributes == 2:
        if sizes and rng.random() < 0.15:
            if rng.random() < 0.5:
                return Kind(thing.colour, None, thing.size)
            return Kind(None, thing.shape, thing.size)
        return Kind(thing.colour, thing.shape)
    if sizes and rng.random() < 0.15:
        return Kind(size=thing.size)
    return Kind(colour=thing.colour) if rng.random() < 0.5 else Kind(shape=thing.shape)


def near_miss(rng: Random, scene: Scene, wanted: Kind) -> Kind:
    """A kind that differs in one attribute, most often one that the scene has elsewhere."""
    options = []
    if wanted.colour is not None:
        pool = [t.colour for t in scene.things] * 2 + list(COLOURS)
        options.append(Kind(rng.choice(pool), wanted.shape, wanted.size))
    if wanted.shape is not None:
        pool = [t.shape for t in scene.things] * 2 + list(SHAPES)
        options.append(Kind(wanted.colour, rng.choice(pool), wanted.size))
    if wanted.size is not None:
        options.append(Kind(wanted.colour, wanted.shape, rng.choice(SIZES)))
    return rng.choice(options) if options else wanted


def wanted_kind(
    rng: Random, scene: Scene, attributes: tuple[str, ...], absent: float, many: float = 0.15
) -> Kind:
    """A kind by some of the attributes, mostly one that a single thing of the scene has.

    `absent` and `many` are about how often it has none, or more than one.
    """
    chance = rng.random()
    wanted = Kind()
    for _ in range(8):
        template = rng.choice(scene.things) if scene.things else None
        full = partial_kind(rng, template, 3)
        use = rng.choice(attributes).split()
        wanted = Kind(
            full.colour if "colour" in use else None,
            full.shape if "shape" in use else None,
            full.size if "size" in use else None,
        )
        if chance < absent:
            wanted = near_miss(rng, scene, wanted)
        num_found = len(scene.matching(wanted))
        if chance < absent:
            fits = num_found == 0
        elif chance < absent + many:
            fits = num_found > 1
        else:
            fits = num_found == 1
        if fits:
            break
    return wanted


def some_quality(rng: Random, thing: Thing | None, known: Kind | None = None) -> tuple[str, bool]:
    """A quality to ask about ("red", "a circle", "large"), and whether the thing has it.

    What is already `known` is not asked about.
    """
    known = known or Kind()
    options = [
        word
        for word, attribute_ in (
            ("colour", known.colour),
            ("shape", known.shape),
            ("size", known.size),
        )
        if attribute_ is None
    ]
    use = rng.choice(options)
    truly = thing is not None and rng.random() < 0.5
    if use == "size":
        size = thing.size if truly and thing else rng.choice(SIZES)
        return spoken_size(rng, size), thing is not None and thing.size == size
    if use == "colour":
        colour = thing.colour if truly and thing else rng.choice(COLOURS)
        return colour, thing is not None and thing.colour == colour
    shape = thing.shape if truly and thing else rng.choice(SHAPES)
    return a(shape), thing is not None and thing.shape == shape
