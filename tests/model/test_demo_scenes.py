"""The world and its language: what the grammar answers is checked by counting, word by word."""

from __future__ import annotations

import re
from itertools import chain, pairwise
from random import Random

import numpy as np
import pytest

from demo.answers import Question
from demo.dialogue import FOLLOW_UPS, ODD, ODD_WORDS, SYSTEM_TEXTS, TALK_KINDS, Dialogue, written
from demo.draw import draw_scene
from demo.grammar import PLACES, PLURALS, SIZE_SYNONYMS, description
from demo.questions import QUESTIONS
from demo.scenes import COLOURS, SHAPES, SIZES, Kind, Scene, Thing, random_scene
from demo.store import make_picture, make_scene, patch_labels, squeezed
from demo.tokenizer import EOS, UNK, build_tokenizer, encode, token_ids

SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
PLAIN_SIZES = {word: size for size, words in SIZE_SYNONYMS.items() for word in words}


def kind_in(words: list[str]) -> Kind:
    """What "a little red circle" means, read from its words alone."""
    words = [SINGULARS.get(word, PLAIN_SIZES.get(word, word)) for word in words]
    first = {
        names: next((word for word in words if word in names), None)
        for names in (COLOURS, SHAPES, SIZES)
    }
    return Kind(first[COLOURS], first[SHAPES], first[SIZES])


def count(scene: Scene, kind: Kind) -> int:
    """As `Scene.matching`, written the long way."""
    found = 0
    for thing in scene.things:
        wrong = (
            (kind.colour and kind.colour != thing.colour)
            or (kind.shape and kind.shape != thing.shape)
            or (kind.size and kind.size != thing.size)
        )
        found += not wrong
    return found


def asked(kind: str, number: int = 300) -> list[tuple[Scene, Question]]:
    pairs = []
    for seed in range(number):
        scene = make_scene(seed)
        pairs.append((scene, QUESTIONS[kind](Random(seed), scene)))
    return pairs


def test_same_seed_same_scene_and_picture() -> None:
    assert make_scene(5) == make_scene(5)
    assert len({make_scene(seed) for seed in range(100)}) > 90
    assert np.array_equal(squeezed(make_picture(5)), squeezed(make_picture(5)))


def test_scenes_hold_at_most_one_thing_in_a_cell_in_reading_order() -> None:
    for seed in range(300):
        cells = [thing.cell for thing in make_scene(seed).things]
        assert cells == sorted(set(cells))
        assert len(cells) <= 6


def test_a_mirrored_scene_is_the_mirrored_picture() -> None:
    scene = Scene((Thing("red", "circle", "large", 0), Thing("blue", "star", "small", 5)))
    cells = [(thing.colour, thing.cell) for thing in scene.mirrored().things]
    assert cells == [("red", 2), ("blue", 3)]
    assert scene.mirrored().mirrored() == scene


def test_what_is_drawn_in_a_cell_stays_in_it() -> None:
    """A black square on white: no dark pixel outside its third of the picture."""
    for seed in range(40):
        scene = Scene((Thing("black", "square", "large", 4),))
        pixels = np.asarray(draw_scene(scene, Random(seed), size=(150, 120)).convert("L"))
        outside = np.ones_like(pixels, dtype=bool)
        outside[38:82, 48:102] = False
        assert (pixels[outside] > 90).all()
        assert (pixels[~outside] < 90).any()


def test_patch_labels_say_what_lies_in_the_cell() -> None:
    labels = patch_labels(Scene((Thing("orange", "star", "large", 8),)))
    assert labels.shape == (64, 5)
    assert labels[0].tolist() == [0, 0, 0, 0, 0]
    assert labels[63].tolist() == [2, 4, 2, 10, 8]


@pytest.mark.parametrize("kind", ["count_all", "count_one", "count_two"])
def test_counts(kind: str) -> None:
    for scene, question in asked(kind):
        numbers = ("none", "one", "two", "three", "four", "five", "six")
        assert question.answer == numbers[count(scene, kind_in(question.text.split()))]


@pytest.mark.parametrize("kind", ["exists_one", "exists_two"])
def test_existence(kind: str) -> None:
    for scene, question in asked(kind):
        words = question.text.split()
        foreign = {"white", "pink", "brown", "grey", "gray", "heart", "rectangle", "hexagon"}
        foreign |= {"oval", "qwx", "hearts", "rectangles", "hexagons", "ovals"}
        there = count(scene, kind_in(words)) > 0 and not foreign & {*words}
        assert question.answer == ("yes" if there else "no")


@pytest.mark.parametrize("kind", ["where_one", "where_two"])
def test_places(kind: str) -> None:
    for scene, question in asked(kind):
        wanted = kind_in(question.text.split())
        places = [PLACES[thing.cell][0] for thing in scene.things if thing.is_a(wanted)]
        if not places:
            assert question.answer.startswith("there is no ")
            continue
        assert question.answer.replace(" and ", ", ").split(", ") == places


@pytest.mark.parametrize("kind", ["colour_of", "shape_of", "size_of"])
def test_attributes(kind: str) -> None:
    what = kind.split("_", maxsplit=1)[0]
    for scene, question in asked(kind):
        words = question.text.split(" or ")[0].split()
        if question.text.endswith(("large or small", "big or small")):
            words = words[:-1]
        if what == "size":
            words = [word for word in words if word not in ("big", "large", "size")]
        wanted = kind_in(words)
        found = [thing for thing in scene.things if thing.is_a(wanted)]
        if len(found) == 1:
            assert question.answer.split()[-1] == getattr(found[0], what)
        else:
            assert question.answer.startswith(("there is no ", "there are "))


def test_sides() -> None:
    for scene, question in asked("is_beside"):
        if not question.answer.startswith("there"):
            text = re.sub("(to|on) the (left|right) of", r"\2 of", question.text)
            _, first, second = text.split(" the ")
            one, other = (scene.matching(kind_in(part.split()))[0] for part in (first, second))
            truth = {
                "left": one.cell % 3 < other.cell % 3,
                "right": one.cell % 3 > other.cell % 3,
                "above": one.cell // 3 < other.cell // 3,
                "over": one.cell // 3 < other.cell // 3,
                "below": one.cell // 3 > other.cell // 3,
                "under": one.cell // 3 > other.cell // 3,
            }
            direction = next(word for word in first.split() if word in truth)
            assert question.answer == ("yes" if truth[direction] else "no")


def test_the_answers_of_a_session_written_by_hand() -> None:
    """Follow-ups go on from the question before: here each is asked for by name."""
    scene = Scene((Thing("red", "circle", "large", 0), Thing("red", "circle", "small", 5)))
    assert description(scene) == (
        "a large red circle in the top left and a small red circle on the right"
    )
    rng = Random(0)
    it = Question("what_at", "", "a red circle", scene.things[:1], Kind("red", "circle"), "what_at")
    size = FOLLOW_UPS["it_size"](rng, scene, it)
    assert size is not None
    assert size.answer == "large"
    another = FOLLOW_UPS["another"](rng, scene, size)
    assert another is not None
    assert another.answer == "yes"
    where = FOLLOW_UPS["other_where"](rng, scene, another)
    assert where is not None
    assert where.answer == "on the right"
    many = FOLLOW_UPS["how_many"](rng, scene, where)
    assert many is not None
    assert many.answer == "two"
    lost = FOLLOW_UPS["lost"](rng, scene, many)
    assert lost is not None
    assert lost.answer == "which one do you mean"


def conversations(number: int) -> list[Question]:
    questions = []
    for seed in range(number):
        rng = Random(seed)
        dialogue = Dialogue(rng, random_scene(rng) if seed % 10 else None)
        questions += [dialogue.ask() for _ in range(6)]
    return questions


def test_every_kind_is_asked_and_every_word_is_known() -> None:
    questions = conversations(1500)
    assert {*QUESTIONS, *FOLLOW_UPS, *TALK_KINDS} <= {question.kind for question in questions}
    known = token_ids()
    unknown_on_purpose = " ".join((*ODD, *ODD_WORDS, *SYSTEM_TEXTS)).split()
    for question in questions:
        assert token_ids()[UNK] not in encode(question.answer), question
        for word in question.text.replace(",", " ").split():
            assert word in known or word in unknown_on_purpose, question


def test_answers_survive_the_tokenizer_and_stream_without_being_rewritten() -> None:
    tokenizer = build_tokenizer()
    for answer in {question.answer for question in conversations(300)}:
        ids = encode(answer)
        assert tokenizer(answer)["input_ids"] == ids
        assert tokenizer.decode(ids) == answer
        pieces = [tokenizer.decode(ids[:length]) for length in range(len(ids) + 1)]
        for shorter, longer in pairwise(pieces):
            assert longer.startswith(shorter)


def test_case_and_punctuation_cost_nothing() -> None:
    tokenizer = build_tokenizer()
    for number, question in enumerate(conversations(300)):
        assert tokenizer(written(Random(number), question.text))["input_ids"] == encode(
            question.text
        )
    assert tokenizer("What's in the TOP-left?!")["input_ids"] == encode("what is in the top left")


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    """In characters and in tokens, whatever was said: sessions append and never render anew."""
    tokenizer = build_tokenizer()
    picture = {"type": "image"}
    messages = [
        {"role": "system", "content": "Answer  briefly. "},
        {"role": "user", "content": [picture, {"type": "text", "text": " What's this?\n"}]},
        {"role": "assistant", "content": "a red circle"},
        {"role": "user", "content": "  Ünknown\twörds… "},
        {"role": "assistant", "content": [{"type": "text", "text": "i only know pictures"}]},
        {"role": "user", "content": [{"type": "text", "text": ""}, picture, picture]},
    ]
    answers = {1: "a red circle", 3: "i only know pictures"}
    for last, answer in answers.items():
        short = tokenizer.apply_chat_template(
            messages[: last + 1], add_generation_prompt=True, tokenize=False
        )
        for later in range(last + 2, len(messages) + 1):
            full = tokenizer.apply_chat_template(messages[:later], tokenize=False)
            said = answer + EOS
            assert full.startswith(short + said)
            rest = full[len(short) + len(said) :]
            pieces = [tokenizer(text)["input_ids"] for text in (short, said, rest)]
            assert tokenizer(full)["input_ids"] == [*chain(*pieces)]
