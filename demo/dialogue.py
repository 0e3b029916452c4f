"""Conversations: follow-ups that need what was said before, small talk, and turns with no picture.

What is kept between turns is the last `Question`: whom it spoke of, what "another one" would be
and how "and in the middle?" goes on. Small talk leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from demo.answers import (
    Question,
    about_attribute,
    about_cell,
    about_count,
    about_existence,
    about_place,
    answer_about_one,
    attribute,
)
from demo.choosing import (
    an,
    choose_cell,
    some_quality,
    wanted_kind,
)
from demo.grammar import (
    DIRECTIONS,
    OUT_OF_WORLD,
    SHOW_ME,
    WHICH_ONE,
    YES,
    name,
    names,
    places,
    spoken_name,
    spoken_names,
    spoken_place,
    yes_no,
)
from demo.questions import QUESTIONS
from demo.scenes import Scene, Thing

FollowUp = Callable[[Random, Scene, Question], Question | None]

IT_COLOUR = ("what colour is it", "what color is it", "which colour is it", "what is its colour")
IT_WHAT = ("what is it", "what is it", "and what is it", "what is that")
IT_SHAPE = ("what shape is it", "which shape is it", "what kind of shape is it")
IT_SIZE = (
    "how big is it",
    "how large is it",
    "what size is it",
    "is it large or small",
    "is it big or small",
)
IT_WHERE = ("where is it", "where is it", "where is it in the picture", "where do you see it")
THEY_WHERE = ("where are they", "where are they", "where do you see them")
IT_IS = ("is it {what}",)
IT_BESIDE = (
    "what is {direction} it",
    "and what is {direction} it",
    "what do you see {direction} it",
)
ANOTHER = (
    "is there another one",
    "is there another one",
    "is there another",
    "do you see another one",
    "are there any others",
    "are there others",
    "is there one more",
)
ANOTHER_OF_THEM = (
    "is there another {name}",
    "do you see another {name}",
    "are there other {names}",
    "are there any other {names}",
)
OTHER_WHERE = (
    "where is the other one",
    "where is the other",
    "and where is the other one",
    "where is it",
    "where is it",
)
OTHERS_WHERE = (
    "where are the others",
    "where are the other ones",
    "and where are the others",
    "where are they",
    "where are they",
)
HOW_MANY = (
    "how many are there",
    "how many of them are there",
    "how many do you see",
    "and how many are there",
    "how many",
)
AND_PLACE = ("and {place}", "and {place}", "what about {place}", "how about {place}")
AND_THE = ("and the {name}", "and the {name}", "what about the {name}", "how about the {name}")
AND_A = ("and a {name}", "what about a {name}", "or a {name}")
AND_MANY = ("and {names}", "and how many {names}", "what about {names}", "how many {names}")

# small talk: kind -> (what is said, what is answered)
TALK: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (
        ("hello", "hi", "hey", "hello there", "good morning", "good evening", "good day"),
        "hello, ask me about the shapes in a picture",
    ),
    "who": (
        (
            "who are you",
            "what are you",
            "what is your name",
            "what can you do",
            "help",
            "tell me about yourself",
        ),
        "i am a small model that knows pictures of drawn shapes",
    ),
    "thanks": (("thank you", "thanks", "thanks a lot", "thank you very much"), "you are welcome"),
    "bye": (("goodbye", "bye", "good night", "see you"), "goodbye"),
}
# said by people who expect more of a model; words that are not in the vocabulary are all one
ODD = (
    "tell me a joke",
    "how are you",
    "how are you today",
    "what is the weather like",
    "what is the capital of france",
    "write a poem about the sea",
    "what time is it",
    "what is two and two",
    "can you help me with my homework",
    "translate this to german",
    "who is the president",
    "why is the sky blue",
    "do you like music",
    "what is the meaning of life",
    "sing a song",
    "where is the dog",
    "how many dogs are there",
    "what colour is the cat",
    "what is the man doing",
    "is this a photo",
    "lorem ipsum dolor sit amet",
    "test",
    "ok",
    "asdf",
    "",
)
ODD_WORDS = (
    *("qwx", "zzk", "vfr"),
    *("the", "a", "is", "and", "my", "of", "you", "i", "in", "to", "what"),
)
SYSTEM_TEXTS = (
    "you are a helpful assistant",
    "answer briefly",
    "you are a helpful assistant that answers questions about pictures",
    "be polite and answer in one sentence",
    "answer in english, please",
)


def it_colour(rng: Random, scene: Scene, memory: Question) -> Question | None:
    return _about_it(rng, memory, "it_colour", IT_COLOUR, "colour")


def it_shape(rng: Random, scene: Scene, memory: Question) -> Question | None:
    return _about_it(rng, memory, "it_shape", IT_SHAPE, "shape")


def it_size(rng: Random, scene: Scene, memory: Question) -> Question | None:
    return _about_it(rng, memory, "it_size", IT_SIZE, "size")


def it_what(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """What is it: the thing itself, and from here on another of its colour and shape."""
    if len(memory.things) != 1:
        return None
    return about_cell("it_what", rng.choice(IT_WHAT), memory.things[0])


def it_where(rng: Random, scene: Scene, memory: Question) -> Question | None:
    if not memory.things:
        return None
    text = rng.choice(IT_WHERE if len(memory.things) == 1 else THEY_WHERE)
    return _going_on(memory, "it_where", text, places(memory.things))


def it_is(rng: Random, scene: Scene, memory: Question) -> Question | None:
    if len(memory.things) != 1:
        return None
    what, truth = some_quality(rng, memory.things[0])
    return _going_on(memory, "it_is", rng.choice(IT_IS).format(what=what), yes_no(truth))


def it_beside(rng: Random, scene: Scene, memory: Question) -> Question | None:
    if len(memory.things) != 1:
        return None
    thing = memory.things[0]
    directions = tuple(DIRECTIONS)
    if rng.random() < 0.6:
        directions = tuple(d for d in DIRECTIONS if scene.beside(thing, d)) or directions
    direction = rng.choice(directions)
    text = rng.choice(IT_BESIDE).format(direction=rng.choice(DIRECTIONS[direction]))
    return about_cell("it_beside", text, scene.beside(thing, direction))


def another(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """Another of the topic: "it" is then the other one, or still the first where there is none."""
    if len(memory.things) != 1 or memory.topic is None:
        return None
    others = _others(scene, memory)
    if not others and rng.random() < 0.8:
        return None  # or "no" would nearly always be right
    text = rng.choice(ANOTHER)
    if rng.random() < 0.3:
        words = {"name": name(memory.topic), "names": names(memory.topic)}
        text = rng.choice(ANOTHER_OF_THEM).format(**words)
    return Question(
        "another",
        text,
        yes_no(bool(others)),
        others or memory.things,
        memory.topic,
        "what_at",
    )


def other_where(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """Where is the other one: only just after it was said that there is one."""
    if memory.kind != "another" or memory.answer != YES:
        return None
    text = rng.choice(OTHER_WHERE if len(memory.things) == 1 else OTHERS_WHERE)
    return _going_on(memory, "other_where", text, places(memory.things))


def how_many(rng: Random, scene: Scene, memory: Question) -> Question | None:
    if memory.topic is None or memory.form == "count":
        return None
    return about_count("how_many", rng.choice(HOW_MANY), scene, memory.topic)


def and_place(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """And in the middle: asks again what was asked of the last place, else what is there."""
    cell = choose_cell(rng, scene)
    text = rng.choice(AND_PLACE).format(place=spoken_place(rng, cell))
    if memory.form in ("colour_at", "shape_at", "size_at"):
        return about_attribute("and_place", text, scene.at(cell), memory.form)
    return about_cell("and_place", text, scene.at(cell))


def and_thing(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """And the blue square: asks again what was asked of the last thing."""
    form = memory.form
    if form in ("where", "exists", "count"):
        attributes: tuple[str, ...] = ("colour shape",) * 3 + ("colour", "shape")
        wanted = wanted_kind(rng, scene, attributes, absent=0.4 if form == "exists" else 0.15)
        words = {"name": spoken_name(rng, wanted), "names": spoken_names(rng, wanted)}
        if form == "where":
            text = rng.choice(AND_THE).format(**words)
            return about_place("and_thing", text, scene, wanted)
        if form == "exists":
            text = an(rng.choice(AND_A).format(**words))
            return about_existence("and_thing", text, scene, wanted)
        return about_count("and_thing", rng.choice(AND_MANY).format(**words), scene, wanted)
    if form in ("colour_of", "shape_of", "size_of"):
        attributes = {
            "colour_of": ("shape", "size shape"),
            "shape_of": ("colour", "size colour"),
            "size_of": ("colour shape", "colour", "shape"),
        }[form]
        wanted = wanted_kind(rng, scene, attributes, absent=0.1, many=0.1)
        text = rng.choice(AND_THE).format(name=spoken_name(rng, wanted))
        return answer_about_one("and_thing", text, scene, wanted, form)
    return None


def lost(rng: Random, scene: Scene, memory: Question) -> Question | None:
    """It, when nothing or more than one thing was spoken of."""
    if len(memory.things) == 1:
        return None
    forms = [*IT_COLOUR, *IT_SHAPE, *IT_SIZE]
    if not memory.things:
        forms += IT_WHERE
    return Question("lost", rng.choice(forms), WHICH_ONE)


FOLLOW_UPS: dict[str, FollowUp] = {
    follow_up.__name__: follow_up
    for follow_up in (
        it_what,
        it_colour,
        it_shape,
        it_size,
        it_where,
        it_is,
        it_beside,
        another,
        other_where,
        how_many,
        and_place,
        and_thing,
        lost,
    )
}
TALK_KINDS = (*TALK, "odd")
NO_PICTURE = "no_picture"
KINDS = (*QUESTIONS, *FOLLOW_UPS, *TALK_KINDS, NO_PICTURE)

# kind -> the kind that can only be asked after it
OPENS = {"another": "other_where"}
# how often a kind is asked where nothing else is said; 1 is usual
BASE_WEIGHTS = {
    "describe": 0.6,
    "where_two": 2.0,
    "exists_two": 2.0,
    "count_two": 1.3,
    "another": 5.0,
    "lost": 0.1,
    "other_where": 6.0,
    "and_thing": 2.0,
    "hello": 0.15,
    "who": 0.15,
    "thanks": 0.1,
    "bye": 0.1,
    "odd": 0.5,
}


@dataclass(slots=True)
class Dialogue:
    """Asks about one scene, turn after turn; `scene` is None before any picture is shown.

    `weights` maps a kind of question to how often it is asked, beside the other kinds;
    `twin_share` is how often the next question is one on the way to "where is the other one".
    """

    rng: Random
    scene: Scene | None
    weights: Mapping[str, float] = field(default_factory=lambda: BASE_WEIGHTS)
    follow_up_share: float = 0.65
    twin_share: float = 0.0
    memory: Question | None = None

    def show(self, scene: Scene) -> None:
        """A new picture: from here on it is the one spoken of."""
        self.scene = scene
        self.memory = None

    def ask(self) -> Question:
        """The next question, with its right answer."""
        if self.rng.random() < 0.05:
            return small_talk(self.rng, self._choose(TALK_KINDS))
        if self.scene is None:
            return self._without_picture()
        question = None
        if self.twin_share and self.rng.random() < self.twin_share:
            question = towards_twin(self.rng, self.scene, self.memory)
        if question is None:
            question = self._follow_up(self.scene)
        if question is None:
            question = QUESTIONS[self._choose(tuple(QUESTIONS))](self.rng, self.scene)
        self.memory = question
        return question

    def _follow_up(self, scene: Scene) -> Question | None:
        memory = self.memory or Question("start", "", "")
        question = other_where(self.rng, scene, memory)
        if question is not None and self.rng.random() < 0.75:
            return question  # it fits so seldom that it would hardly be learned
        share = self.follow_up_share if self.memory else 0.04
        if self.rng.random() >= share:
            return None
        options = {
            kind: question
            for kind, follow_up in FOLLOW_UPS.items()
            if (question := follow_up(self.rng, scene, memory)) is not None
        }
        return options[self._choose(tuple(options))]

    def _without_picture(self) -> Question:
        """A question about a picture that is not there."""
        scene = Scene((Thing("red", "circle", "large", 4),))
        if self.rng.random() < 0.2:
            follow_up = lost(self.rng, scene, Question("start", "", ""))
            assert follow_up is not None
            return replace(follow_up, kind=NO_PICTURE, answer=SHOW_ME)
        question = QUESTIONS[self._choose(tuple(QUESTIONS))](self.rng, scene)
        return Question(NO_PICTURE, question.text, SHOW_ME)

    def _choose(self, kinds: tuple[str, ...]) -> str:
        return self.rng.choices(kinds, [self.weights.get(kind, 1.0) for kind in kinds])[0]


def small_talk(rng: Random, kind: str) -> Question:
    """Something that is not about shapes."""
    if kind != "odd":
        said, answer = TALK[kind]
        return Question(kind, rng.choice(said), answer)
    if rng.random() < 0.6:
        return Question(kind, rng.choice(ODD), OUT_OF_WORLD)
    words = [rng.choice(ODD_WORDS) for _ in range(rng.randint(1, 8))]
    words.insert(rng.randint(0, len(words)), "qwx")  # one at least that nobody knows
    return Question(kind, " ".join(words), OUT_OF_WORLD)


def system_text(rng: Random) -> str:
    """What the owner of a service may say before all else."""
    if rng.random() < 0.5:
        return rng.choice(SYSTEM_TEXTS)
    return " ".join(rng.choice(ODD_WORDS) for _ in range(rng.randint(1, 12)))


def written(rng: Random, text: str) -> str:
    """The question as a person types it: any case, with or without its mark."""
    chance = rng.random()
    if chance < 0.5:
        text = text[:1].upper() + text[1:]
    elif chance < 0.6:
        text = text.upper()
    return text + rng.choice(("?", "?", "", "", ".", " ?", "!", "??"))


def towards_twin(rng: Random, scene: Scene, memory: Question | None) -> Question | None:
    """The next question on the way to "where is the other one", by any road that leads there.

    One thing that has a twin is spoken of, often as what is beside another; then it is asked
    whether there is another one, and where. None where no such thing was hit upon.
    """
    memory = memory or Question("start", "", "")
    if (question := other_where(rng, scene, memory)) is not None:
        return question
    if memory.kind not in ("another", "other_where") and _has_twin(scene, memory):
        return another(rng, scene, memory)
    # what is beside another takes one step more than all else, and is learned last
    by_neighbour = rng.random() < 0.7
    for _ in range(8):
        if by_neighbour:
            question = it_beside(rng, scene, memory) or QUESTIONS["beside"](rng, scene)
        else:
            question = QUESTIONS[rng.choice(tuple(QUESTIONS))](rng, scene)
        if question is not None and _has_twin(scene, question):
            return question
    return None


def _has_twin(scene: Scene, memory: Question) -> bool:
    """Whether one thing is spoken of and "another one" would mean one that is there."""
    return len(memory.things) == 1 and memory.topic is not None and bool(_others(scene, memory))


def _others(scene: Scene, memory: Question) -> tuple[Thing, ...]:
    assert memory.topic is not None
    return tuple(thing for thing in scene.matching(memory.topic) if thing not in memory.things)


def _about_it(
    rng: Random, memory: Question, kind: str, templates: tuple[str, ...], what: str
) -> Question | None:
    if len(memory.things) != 1:
        return None
    return _going_on(memory, kind, rng.choice(templates), attribute(memory.things[0], what))


def _going_on(memory: Question, kind: str, text: str, answer: str) -> Question:
    """The same things and topic stay in mind."""
    return Question(kind, text, answer, memory.things, memory.topic, "what_at")
