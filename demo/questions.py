"""Questions that stand alone, and their one right answer.

Each kind of question is a function (rng, scene) -> Question. What a question leaves behind for
the next one (who is "it", what is "another one") is part of the Question; follow-ups are in
`dialogue`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from demo.answers import (
    Question,
    about_attribute,
    about_cell,
    about_count,
    about_existence,
    about_one,
    about_place,
)
from demo.choosing import (
    an,
    choose_cell,
    near_miss,
    partial_kind,
    some_quality,
    wanted_kind,
)
from demo.grammar import (
    DIRECTIONS,
    FOREIGN_COLOURS,
    FOREIGN_SHAPES,
    NOTHING_THERE,
    PLURALS,
    SAME_SIZE,
    description,
    name,
    not_one,
    spoken_name,
    spoken_names,
    spoken_place,
    yes_no,
)
from demo.scenes import COLOURS, Kind, Scene, Thing

Ask = Callable[[Random, Scene], Question]

DESCRIBE = (
    "describe the picture",
    "describe the image",
    "describe this picture",
    "what do you see",
    "what can you see",
    "what is in the picture",
    "what is in the image",
    "what is in this picture",
    "what is this",
    "what shapes are there",
    "what does the picture show",
    "list the shapes",
    "what does the image show",
    "what is there",
    "what shapes do you see",
    "what shapes are in the picture",
    "what objects do you see",
    "what things are there",
)
WHAT_AT = (
    "what is {place}",
    "what is {place}",
    "what do you see {place}",
    "what can you see {place}",
)
COLOUR_AT = (
    "what colour is the {thing} {place}",
    "what color is the {thing} {place}",
    "which colour is the {thing} {place}",
    "what is the colour of the {thing} {place}",
)
SHAPE_AT = ("what shape is {place}", "which shape is {place}", "what kind of shape is {place}")
SIZE_AT = (
    "how big is the {thing} {place}",
    "how large is the {thing} {place}",
    "what size is the {thing} {place}",
    "is the {thing} {place} large or small",
    "is the {thing} {place} big or small",
)
WHERE = (
    "where is the {name}",
    "where is the {name}",
    "where is the {name}",
    "where do you see the {name}",
    "where is the {name} in the picture",
    "where in the picture is the {name}",
)
WHERE_MANY = ("where are the {names}", "where do you see the {names}", "where are {names}")
EXISTS = (
    "is there a {name}",
    "is there a {name}",
    "is there any {name}",
    "do you see a {name}",
    "can you see a {name}",
    "does the picture have a {name}",
    "is there a {name} in the picture",
    "is there a {name} in the image",
    "does the image have a {name}",
    "are there any {names}",
    "are there {names}",
    "do you see any {names}",
)
EXISTS_AT = ("is there a {name} {place}", "do you see a {name} {place}", "is a {name} {place}")
ANYTHING_AT = (
    "is there anything {place}",
    "is there something {place}",
    "do you see anything {place}",
    "is there a {thing} {place}",
)
IS_AT = ("is the {thing} {place} {what}",)
COUNT = (
    "how many {names} are there",
    "how many {names} are there",
    "how many {names} are in the picture",
    "how many {names} do you see",
    "how many {names} can you see",
    "how many {names} are in the image",
    "how many {names}",
    "count the {names}",
)
COLOUR_OF = (
    "what colour is the {name}",
    "what color is the {name}",
    "which colour is the {name}",
    "what is the colour of the {name}",
    "what colour does the {name} have",
)
SHAPE_OF = (
    "what shape is the {name}",
    "which shape is the {name}",
    "what kind of shape is the {name}",
    "what is the shape of the {name}",
    "what is the {name}",
)
SIZE_OF = (
    "how big is the {name}",
    "how large is the {name}",
    "what size is the {name}",
    "is the {name} large or small",
    "is the {name} big or small",
)
IS_OF = ("is the {name} {what}",)
MORE = ("are there more {first} than {second}", "do you see more {first} than {second}")
FEWER = ("are there fewer {first} than {second}", "are there less {first} than {second}")
BIGGER = (
    "which is bigger, the {first} or the {second}",
    "which is bigger the {first} or the {second}",
    "which one is bigger, the {first} or the {second}",
    "which is larger, the {first} or the {second}",
    "what is bigger, the {first} or the {second}",
)
IS_BIGGER = ("is the {first} bigger than the {second}", "is the {first} larger than the {second}")
IS_SMALLER = ("is the {first} smaller than the {second}",)
IS_BESIDE = ("is the {first} {direction} the {second}",)
BESIDE = ("what is {direction} the {name}", "what do you see {direction} the {name}")


def describe(rng: Random, scene: Scene) -> Question:
    return Question(
        "describe", rng.choice(DESCRIBE), description(scene), scene.things, Kind(), "describe"
    )


def what_at(rng: Random, scene: Scene) -> Question:
    cell = choose_cell(rng, scene)
    text = rng.choice(WHAT_AT).format(place=spoken_place(rng, cell))
    return about_cell("what_at", text, scene.at(cell))


def colour_at(rng: Random, scene: Scene) -> Question:
    return _ask_at(rng, scene, "colour_at", COLOUR_AT)


def shape_at(rng: Random, scene: Scene) -> Question:
    return _ask_at(rng, scene, "shape_at", SHAPE_AT)


def size_at(rng: Random, scene: Scene) -> Question:
    return _ask_at(rng, scene, "size_at", SIZE_AT)


def is_at(rng: Random, scene: Scene) -> Question:
    cell = choose_cell(rng, scene)
    thing = scene.at(cell)
    what, truth = some_quality(rng, thing)
    text = rng.choice(IS_AT).format(
        thing=spoken_name(rng, Kind()), place=spoken_place(rng, cell), what=what
    )
    if thing is None:
        return Question("is_at", text, NOTHING_THERE)
    return Question("is_at", text, yes_no(truth), (thing,), Kind(thing.colour, thing.shape))


def exists_at(rng: Random, scene: Scene) -> Question:
    cell = choose_cell(rng, scene, empty=0.4)
    thing = scene.at(cell)
    spoken = spoken_place(rng, cell)
    if rng.random() < 0.35:
        text = rng.choice(ANYTHING_AT).format(thing=spoken_name(rng, Kind()), place=spoken)
        wanted, truth = Kind(), thing is not None
    else:
        template = thing
        if thing is None or rng.random() < 0.5:
            template = rng.choice(scene.things) if scene.things else None
        wanted = partial_kind(rng, template, rng.randint(1, 2), sizes=False)
        text = an(rng.choice(EXISTS_AT).format(name=spoken_name(rng, wanted), place=spoken))
        truth = thing is not None and thing.is_a(wanted)
    if thing is None or not truth:
        return Question("exists_at", text, yes_no(truth))
    return Question("exists_at", text, yes_no(truth), (thing,), Kind(thing.colour, thing.shape))


def where_one(rng: Random, scene: Scene) -> Question:
    """Where is the red shape, where is the star: one attribute."""
    return _where(rng, scene, "where_one", 1)


def where_two(rng: Random, scene: Scene) -> Question:
    """Where is the red star: two attributes or three."""
    return _where(rng, scene, "where_two", 3 if rng.random() < 0.25 else 2)


def exists_one(rng: Random, scene: Scene) -> Question:
    return _exists(rng, scene, "exists_one", 1)


def exists_two(rng: Random, scene: Scene) -> Question:
    return _exists(rng, scene, "exists_two", 3 if rng.random() < 0.25 else 2)


def count_all(rng: Random, scene: Scene) -> Question:
    return about_count(
        "count_all", rng.choice(COUNT).format(names=spoken_names(rng, Kind())), scene, Kind()
    )


def count_one(rng: Random, scene: Scene) -> Question:
    return _count(rng, scene, "count_one", 1)


def count_two(rng: Random, scene: Scene) -> Question:
    return _count(rng, scene, "count_two", 2)


def colour_of(rng: Random, scene: Scene) -> Question:
    wanted = wanted_kind(rng, scene, ("shape", "shape", "size shape", "size"), absent=0.12)
    return about_one("colour_of", rng.choice(COLOUR_OF), rng, scene, wanted)


def shape_of(rng: Random, scene: Scene) -> Question:
    wanted = wanted_kind(rng, scene, ("colour", "colour", "size colour", "size"), absent=0.12)
    return about_one("shape_of", rng.choice(SHAPE_OF), rng, scene, wanted)


def size_of(rng: Random, scene: Scene) -> Question:
    wanted = wanted_kind(rng, scene, ("shape", "colour", "colour shape", "colour shape"), 0.12)
    return about_one("size_of", rng.choice(SIZE_OF), rng, scene, wanted)


def is_of(rng: Random, scene: Scene) -> Question:
    """Is the circle red, is the red shape a circle, is the red circle large."""
    wanted = wanted_kind(rng, scene, ("shape", "colour", "colour shape"), absent=0.12)
    found = scene.matching(wanted)
    what, truth = some_quality(rng, found[0] if len(found) == 1 else None, wanted)
    text = rng.choice(IS_OF).format(name=spoken_name(rng, wanted), what=what)
    answer = yes_no(truth) if len(found) == 1 else not_one(wanted, len(found))
    return Question("is_of", text, answer, found, wanted)


def more(rng: Random, scene: Scene) -> Question:
    first, second = _two_alike(rng, scene)
    num_first, num_second = len(scene.matching(first)), len(scene.matching(second))
    words = {"first": spoken_names(rng, first), "second": spoken_names(rng, second)}
    if rng.random() < 0.7:
        text, truth = rng.choice(MORE).format(**words), num_first > num_second
    else:
        text, truth = rng.choice(FEWER).format(**words), num_first < num_second
    return Question("more", text, yes_no(truth))


def bigger(rng: Random, scene: Scene) -> Question:
    """Which is bigger: answers with one of the two, or that they are alike."""
    first, second, found = _two_things(rng, scene)
    text = rng.choice(BIGGER).format(first=spoken_name(rng, first), second=spoken_name(rng, second))
    if isinstance(found, str):
        return Question("bigger", text, found)
    one, other = found
    if one.size == other.size:
        return Question("bigger", text, SAME_SIZE)
    large, kind = (one, first) if one.size == "large" else (other, second)
    return Question("bigger", text, f"the {name(kind)}", (large,), kind)


def is_bigger(rng: Random, scene: Scene) -> Question:
    first, second, found = _two_things(rng, scene)
    forms, size = (IS_BIGGER, "large") if rng.random() < 0.65 else (IS_SMALLER, "small")
    text = rng.choice(forms).format(first=spoken_name(rng, first), second=spoken_name(rng, second))
    if isinstance(found, str):
        return Question("is_bigger", text, found)
    one, other = found
    return Question("is_bigger", text, yes_no(one.size == size != other.size))


def is_beside(rng: Random, scene: Scene) -> Question:
    """Is the red circle left of the blue square: columns or rows are compared, near or far."""
    first, second, found = _two_things(rng, scene)
    direction = rng.choice(tuple(DIRECTIONS))
    text = rng.choice(IS_BESIDE).format(
        first=spoken_name(rng, first),
        second=spoken_name(rng, second),
        direction=rng.choice(DIRECTIONS[direction]),
    )
    if isinstance(found, str):
        return Question("is_beside", text, found)
    one, other = found
    truth = {
        "left": one.column < other.column,
        "right": one.column > other.column,
        "above": one.row < other.row,
        "below": one.row > other.row,
    }[direction]
    return Question("is_beside", text, yes_no(truth))


def beside(rng: Random, scene: Scene) -> Question:
    """What is left of the red circle: the nearest in the same row or column, or nothing."""
    wanted = wanted_kind(
        rng, scene, ("shape", "colour", "colour shape", "colour shape"), absent=0.1, many=0.05
    )
    found = scene.matching(wanted)
    directions = tuple(DIRECTIONS)
    if len(found) == 1 and rng.random() < 0.6:
        # half of the cells around a thing are outside or empty: "nothing" would be most answers
        directions = tuple(d for d in DIRECTIONS if scene.beside(found[0], d)) or directions
    direction = rng.choice(directions)
    text = rng.choice(BESIDE).format(
        name=spoken_name(rng, wanted), direction=rng.choice(DIRECTIONS[direction])
    )
    if len(found) != 1:
        return Question("beside", text, not_one(wanted, len(found)), found, wanted)
    return about_cell("beside", text, scene.beside(found[0], direction))


# kind -> how to ask it
QUESTIONS: dict[str, Ask] = {
    ask.__name__: ask
    for ask in (
        describe,
        what_at,
        colour_at,
        shape_at,
        size_at,
        is_at,
        exists_at,
        where_one,
        where_two,
        exists_one,
        exists_two,
        count_all,
        count_one,
        count_two,
        colour_of,
        shape_of,
        size_of,
        is_of,
        more,
        bigger,
        is_bigger,
        is_beside,
        beside,
    )
}


# --- the kinds that share their making


def _ask_at(rng: Random, scene: Scene, kind: str, templates: tuple[str, ...]) -> Question:
    cell = choose_cell(rng, scene)
    text = rng.choice(templates).format(
        thing=spoken_name(rng, Kind()), place=spoken_place(rng, cell)
    )
    return about_attribute(kind, text, scene.at(cell), kind)


def _attributes(rng: Random, num_attributes: int) -> tuple[str, ...]:
    return {
        1: ("colour", "shape", "colour", "shape", "colour", "shape", "size"),
        2: ("colour shape",) * 6 + ("size shape", "size colour"),
        3: ("size colour shape",),
    }[num_attributes]


def _where(rng: Random, scene: Scene, kind: str, num_attributes: int) -> Question:
    attributes = _attributes(rng, num_attributes)
    wanted = wanted_kind(rng, scene, attributes, absent=0.2, many=0.2)
    if rng.random() < (0.5 if len(scene.matching(wanted)) > 1 else 0.1):
        text = rng.choice(WHERE_MANY).format(names=spoken_names(rng, wanted))
    else:
        text = rng.choice(WHERE).format(name=spoken_name(rng, wanted))
    return about_place(kind, text, scene, wanted)


def _exists(rng: Random, scene: Scene, kind: str, num_attributes: int) -> Question:
    wanted = wanted_kind(rng, scene, _attributes(rng, num_attributes), absent=0.5, many=0.1)
    template = rng.choice(EXISTS)
    if wanted.shape and rng.random() < 0.04:
        foreign, foreigns = _foreign(rng, wanted.shape)
        return Question(kind, an(template.format(name=foreign, names=foreigns)), yes_no(False))
    text = an(template.format(name=spoken_name(rng, wanted), names=spoken_names(rng, wanted)))
    return about_existence(kind, text, scene, wanted)


def _foreign(rng: Random, shape: str) -> tuple[str, str]:
    """A thing that no scene has, and many of it: "pink circle", "red hearts"."""
    if rng.random() < 0.5:
        colour = rng.choice(FOREIGN_COLOURS)
        return f"{colour} {shape}", f"{colour} {PLURALS[shape]}"
    shape = rng.choice(FOREIGN_SHAPES)
    colour = f"{rng.choice(COLOURS)} " if rng.random() < 0.5 else ""
    return colour + shape, colour + shape + ("" if shape == "qwx" else "s")


def _count(rng: Random, scene: Scene, kind: str, num_attributes: int) -> Question:
    wanted = wanted_kind(rng, scene, _attributes(rng, num_attributes), absent=0.2, many=0.45)
    text = rng.choice(COUNT).format(names=spoken_names(rng, wanted))
    return about_count(kind, text, scene, wanted)


def _two_alike(rng: Random, scene: Scene) -> tuple[Kind, Kind]:
    """Two different kinds that are named by the same attribute, at least one of them present."""
    thing = rng.choice(scene.things) if scene.things else None
    first = partial_kind(rng, thing, 1)
    second = first
    while second == first:
        second = near_miss(rng, scene, first)
    return (first, second) if rng.random() < 0.5 else (second, first)


def _two_things(rng: Random, scene: Scene) -> tuple[Kind, Kind, tuple[Thing, Thing] | str]:
    """Two kinds, and the one thing of each; or what to say where one of them is not one."""
    attributes = ("colour shape", "colour shape", "colour", "shape")
    first = wanted_kind(rng, scene, attributes, absent=0.05, many=0.03)
    second = first
    for _ in range(8):
        second = wanted_kind(rng, scene, attributes, absent=0.05, many=0.03)
        if not {*scene.matching(first)} & {*scene.matching(second)} and first != second:
            break
    else:
        second = near_miss(rng, Scene(()), first)
    found_first, found_second = scene.matching(first), scene.matching(second)
    if len(found_first) != 1:
        return first, second, not_one(first, len(found_first))
    if len(found_second) != 1:
        return first, second, not_one(second, len(found_second))
    return first, second, (found_first[0], found_second[0])
