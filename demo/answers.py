"""A question with its answer, and the answers that first questions and follow-ups share."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from demo.grammar import (
    NOTHING,
    NOTHING_THERE,
    NUMBERS,
    a,
    a_thing,
    not_one,
    places,
    spoken_name,
    yes_no,
)
from demo.scenes import Kind, Scene, Thing


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene, its answer, and what it leaves in mind.

    `things` are those that "it" or "they" would now mean, `topic` what "another one" would be,
    and `form` how "and in the middle?" or "and the square?" would go on.
    """

    kind: str
    text: str
    answer: str
    things: tuple[Thing, ...] = ()
    topic: Kind | None = None
    form: str | None = None


def about_cell(kind: str, text: str, thing: Thing | None) -> Question:
    """What is there: a thing, or nothing."""
    if thing is None:
        return Question(kind, text, NOTHING, form="what_at")
    topic = Kind(thing.colour, thing.shape)
    return Question(kind, text, a_thing(thing), (thing,), topic, "what_at")


def about_attribute(kind: str, text: str, thing: Thing | None, form: str) -> Question:
    """One attribute of the thing in a cell, by the form of the question.

    It says too little of the thing for "another one" to mean anything.
    """
    if thing is None:
        return Question(kind, text, NOTHING_THERE, form=form)
    return Question(kind, text, attribute(thing, form), (thing,), None, form)


def about_one(kind: str, template: str, rng: Random, scene: Scene, wanted: Kind) -> Question:
    """One attribute of "the red circle"; `kind` ends in what it asks for."""
    text = template.format(name=spoken_name(rng, wanted))
    return answer_about_one(kind, text, scene, wanted, kind)


def answer_about_one(kind: str, text: str, scene: Scene, wanted: Kind, form: str) -> Question:
    found = scene.matching(wanted)
    if len(found) == 1:
        return Question(kind, text, attribute(found[0], form), found, wanted, form)
    return Question(kind, text, not_one(wanted, len(found)), found, wanted, form)


def about_place(kind: str, text: str, scene: Scene, wanted: Kind) -> Question:
    found = scene.matching(wanted)
    answer = places(found) if found else not_one(wanted, 0)
    return Question(kind, text, answer, found, wanted, "where")


def about_existence(kind: str, text: str, scene: Scene, wanted: Kind) -> Question:
    found = scene.matching(wanted)
    return Question(kind, text, yes_no(bool(found)), found, wanted, "exists")


def about_count(kind: str, text: str, scene: Scene, wanted: Kind) -> Question:
    found = scene.matching(wanted)
    return Question(kind, text, NUMBERS[len(found)], found, wanted, "count")


def attribute(thing: Thing, form: str) -> str:
    """The attribute that a form such as "colour_of" or "shape_at" asks for."""
    what = form.split("_", maxsplit=1)[0]
    return {"colour": thing.colour, "shape": a(thing.shape), "size": thing.size}[what]
