"""What parent and peers say to each other: one JSON object a line, a reply to each.

    load    a checkpoint                                  → what was loaded
    open    a conversation on a picture, encoded          → nothing; nothing is computed yet
    ask     one question in one or several conversations  → answers of fixed length, with times
    forget  a conversation

The first question of a conversation holds the picture's placeholders, expanded. A peer keeps the
tokens of its conversations itself, questions and its own answers; the parent sends what is new.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    model: str
    """Directory of the checkpoint."""
    dtype: str
    """Of weights and KV: ``float32`` or ``bfloat16``."""
    kv_cache_mb: int
    """Where KV has a budget of its own."""
    image_token: int
    """Id of the placeholder of one image feature."""


@dataclass(frozen=True, slots=True)
class Open:
    conversation: str
    picture: str
    """JPEG, base64."""


@dataclass(frozen=True, slots=True)
class Question:
    conversation: str
    tokens: tuple[int, ...]
    """What is new since the last answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    questions: tuple[Question, ...]
    num_tokens: int
    """Of each answer, whatever is said."""


@dataclass(frozen=True, slots=True)
class Forget:
    conversation: str


Request = Load | Open | Ask | Forget


@dataclass(frozen=True, slots=True)
class Loaded:
    versions: dict[str, str]
    """Package -> version, of what computes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Times are in ms since the question was taken, one for each token."""

    tokens: tuple[int, ...]
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    """The process's own time: without what others did on the core in between."""
    num_prompt: int
    num_cached: int | None
    """Tokens of the prompt that were not computed again; None where the peer does not tell."""


@dataclass(frozen=True, slots=True)
class Answers:
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    pass


Reply = Loaded | Answers | Failure | Done

_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Load, Open, Ask, Forget, Loaded, Answers, Failure, Done)
}


def to_json(message: Request | Reply) -> dict[str, Any]:
    return {"type": type(message).__name__, **asdict(message)}


def from_json(raw: dict[str, Any]) -> Request | Reply:
    """The message that ``to_json`` gave.

    Raises:
        KeyError, TypeError: it is none.
    """
    fields = dict(raw)
    kind = _TYPES[fields.pop("type")]
    if kind is Ask:
        asked = (Question(q["conversation"], tuple(q["tokens"])) for q in fields["questions"])
        fields["questions"] = tuple(asked)
    if kind is Answers:
        fields["answers"] = tuple(_answer(each) for each in fields["answers"])
    message: Request | Reply = kind(**fields)
    return message


def _answer(raw: dict[str, Any]) -> Answer:
    return Answer(
        tokens=tuple(raw["tokens"]),
        wall=tuple(raw["wall"]),
        cpu=tuple(raw["cpu"]),
        num_prompt=raw["num_prompt"],
        num_cached=raw["num_cached"],
    )


class Times:
    """Takes the times of one answer, from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def stamp(self) -> None:
        """A token came."""
        self.wall.append((time.perf_counter() - self._wall) * 1e3)
        self.cpu.append((time.process_time() - self._cpu) * 1e3)

    def answer(self, tokens: tuple[int, ...], *, num_prompt: int, num_cached: int | None) -> Answer:
        return Answer(tokens, tuple(self.wall), tuple(self.cpu), num_prompt, num_cached)
