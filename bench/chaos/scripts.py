"""What is talked about: conversations about drawn pictures, from a seed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from demo.dialogue import Dialogue, system_text, written
from demo.draw import draw_scene
from demo.scenes import Scene, random_scene

DESCRIBE = "Describe the picture."
"""Has the longest answers, long enough to be interrupted."""
MAX_NEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and what it shows."""

    content: bytes
    scene: Scene

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """One turn's request; a turn may bring a picture."""

    prompt: str
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation: how the session is opened, and what is asked in it, in order."""

    system: str | None
    opening: tuple[Picture, ...]
    questions: tuple[Question, ...]


def write_scripts(seed: int, num_scripts: int, num_turns: int) -> tuple[Script, ...]:
    """Scripts over half as many pictures, so that different sessions share some."""
    rng = Random(f"scripts {seed}")
    pictures = [_draw(rng) for _ in range(max(2, num_scripts // 2))]
    return tuple(_write(rng, pictures, num_turns) for _ in range(num_scripts))


def _draw(rng: Random) -> Picture:
    scene = random_scene(rng)
    encoded = io.BytesIO()
    draw_scene(scene, rng).save(encoded, rng.choice(("PNG", "JPEG")))
    return Picture(encoded.getvalue(), scene)


def _write(rng: Random, pictures: Sequence[Picture], num_turns: int) -> Script:
    opening = tuple(rng.sample(pictures, rng.choice((1, 1, 1, 2))))
    dialogue = Dialogue(rng, opening[-1].scene)
    questions = []
    for number in range(num_turns):
        picture = None
        if number and rng.random() < 0.15:
            picture = rng.choice(pictures)
            dialogue.show(picture.scene)
        asked = written(rng, dialogue.ask().text) or " "  # the service refuses an empty prompt
        questions.append(Question(DESCRIBE if rng.random() < 0.4 else asked, picture))
    system = system_text(rng) if rng.random() < 0.3 else None
    return Script(system, opening, tuple(questions))
