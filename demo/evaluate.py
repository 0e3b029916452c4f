"""Measures a saved checkpoint on pictures that it has never seen: `python -m demo.evaluate`.

The checkpoint is loaded as anybody would load it, asked through its own chat template and
tokenizer with questions as people type them, and answers greedily. An answer is right when it is
the expected text, character by character.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from demo.dialogue import TALK_KINDS, Dialogue, small_talk, system_text, written
from demo.draw import as_jpeg, draw_scene
from demo.questions import QUESTIONS
from demo.score import LIVE, SINGLE, Score, show, write
from demo.store import HELD_OUT, make_picture, make_scene
from demo.talker import Answers, Message, Talker

# seeds of pictures: each section has its own range
_SECTION = 1_000_000


@dataclass
class Chat:
    """One conversation under way: what was shown and said, with the model's own answers."""

    dialogue: Dialogue
    where: str
    messages: list[Message] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)

    def say(self, text: str, shown: Iterable[Image.Image] = ()) -> None:
        parts: list[Message] = []
        for image in shown:
            self.images.append(image)
            parts.append({"type": "image"})
        self.messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})

    def hear(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})


Picture = Callable[[int], Image.Image]


def single_questions(talker: Answers, num_each: int, section: int = 0) -> Score:
    """Each kind equally often, each as the first question of a session on a picture of its own."""
    score = Score()
    kinds = (*QUESTIONS, *TALK_KINDS)
    for number in track(range(num_each), "single questions"):
        chats, questions = [], []
        for k, kind in enumerate(kinds):
            seed = HELD_OUT + section * _SECTION + number * len(kinds) + k
            rng = Random(seed + 7)
            scene = make_scene(seed)
            ask = QUESTIONS.get(kind)
            question = ask(rng, scene) if ask else small_talk(rng, kind)
            chat = Chat(Dialogue(rng, scene), str(seed))
            chat.say(written(rng, question.text), [make_picture(seed)])
            chats.append(chat)
            questions.append(question)
        given = talker.answer([c.messages for c in chats], [c.images for c in chats])
        for chat, question, answer in zip(chats, questions, given, strict=True):
            score.add(question, answer, chat.where)
    return score


def sessions(
    talker: Answers,
    name: str,
    *,
    num_sessions: int,
    num_turns: int,
    section: int,
    picture: Picture = make_picture,
    late: bool = False,
    second: bool = False,
    system: bool = False,
    from_turn: int = 0,
) -> Score:
    """Sessions of many turns in which the model's own answers are what was said before.

    `late`: the picture comes with the third turn; `second`: another one comes in the middle;
    `from_turn`: turns before it are not counted.
    """
    score = Score()
    chats = []
    for number in range(num_sessions):
        seed = HELD_OUT + section * _SECTION + number
        chat = Chat(Dialogue(Random(seed + 7), None), str(seed))
        if system:
            text = system_text(chat.dialogue.rng)
            chat.messages.append({"role": "system", "content": text})
        chats.append(chat)
    for turn in track(range(num_turns), name):
        questions = []
        for chat in chats:
            shown = []
            seed = int(chat.where)
            if turn == (2 if late else 0):
                chat.dialogue.show(make_scene(seed))
                shown.append(picture(seed))
            if second and turn == num_turns // 2:
                chat.dialogue.show(make_scene(seed + _SECTION // 2))
                shown.append(picture(seed + _SECTION // 2))
            question = chat.dialogue.ask()
            chat.say(written(chat.dialogue.rng, question.text), shown)
            questions.append(question)
        given: list[str] = []
        for first in range(0, len(chats), 32):
            some = chats[first : first + 32]
            given += talker.answer([c.messages for c in some], [c.images for c in some])
        for chat, question, answer in zip(chats, questions, given, strict=True):
            chat.hear(answer)
            if turn >= from_turn:
                score.add(question, answer, f"{chat.where} turn {turn}")
    return score


# --- pictures as they come from elsewhere


def _jpeg30(seed: int) -> Image.Image:
    return as_jpeg(make_picture(seed), 30)


def _sized(width: int, height: int) -> Picture:
    def picture(seed: int) -> Image.Image:
        return draw_scene(make_scene(seed), Random(seed), size=(width, height))

    return picture


def _palette(seed: int) -> Image.Image:
    return make_picture(seed).convert("P", palette=Image.Palette.ADAPTIVE, colors=32)


def _transparent(seed: int) -> Image.Image:
    return make_picture(seed).convert("RGBA")


PICTURES: dict[str, Picture] = {
    "JPEG, quality 30": _jpeg30,
    "640 x 480": _sized(640, 480),
    "200 x 300": _sized(200, 300),
    "1024 x 1024": _sized(1024, 1024),
    "palette of 32 colours": _palette,
    "RGBA": _transparent,
}


def evaluate(talker: Answers, scale: float) -> dict[str, Score]:
    """All sections; `scale` 1 asks about nine thousand questions."""

    def some(number: int) -> int:
        return max(1, round(number * scale))

    scores = {
        SINGLE: single_questions(talker, some(100)),
        LIVE: sessions(talker, "sessions", num_sessions=some(300), num_turns=10, section=1),
        "turns 20 to 30 of long sessions": sessions(
            talker, "long sessions", num_sessions=some(32), num_turns=30, section=2, from_turn=20
        ),
        "with a system text": sessions(
            talker, "system text", num_sessions=some(48), num_turns=6, section=3, system=True
        ),
        "picture in the third turn": sessions(
            talker, "late picture", num_sessions=some(48), num_turns=8, section=4, late=True
        ),
        "two pictures, the second one": sessions(
            talker,
            "two pictures",
            num_sessions=some(48),
            num_turns=10,
            section=5,
            second=True,
            from_turn=5,
        ),
    }
    for number, (name, picture) in enumerate(PICTURES.items()):
        scores[name] = sessions(
            talker, name, num_sessions=some(48), num_turns=6, section=6 + number, picture=picture
        )
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--out", type=Path, help="writes the figures here, and into README.md")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the questions to ask")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start = time.monotonic()
    scores = evaluate(Talker(args.model), args.scale)
    console = Console(width=100)
    show(scores, console)
    console.print(f"{time.monotonic() - start:.0f} s")
    if args.out:
        write(scores, args.out)


if __name__ == "__main__":
    main()
