"""Training batches: rows of conversations on stored pictures.

A row is one picture and as many conversations about it as fit. They do not see each other: each
is a *branch* that attends to the prefix (the picture) and to itself. So the picture is paid for
once, and what the model meets is always the beginning of a session, or its own session.

    prefix                      branch 1                              branch 2
    <s> USER: <image> x 64    | what is at the top ASSISTANT: ... </s> | is there a ...
    segment 0                   segment 1                              segment 2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from demo.answers import Question
from demo.dialogue import BASE_WEIGHTS, KINDS, Dialogue, system_text
from demo.model import NUM_PATCHES
from demo.scenes import Scene
from demo.store import make_scene, patch_labels
from demo.tokenizer import ASSISTANT, BOS, EOS, IMAGE, PAD, USER, encode, token_ids

IGNORE = -100  # the target of a token that foretells nothing


@dataclass(slots=True)
class Row:
    """Tokens of one sequence. `targets` is the next token where it is part of an answer."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # number of the answer, from 0, else -1
    kinds: list[str] = field(default_factory=list)  # of each answer
    scenes: list[tuple[int, bool]] = field(default_factory=list)  # number, mirrored

    def add(self, tokens: list[int], position: int, segment: int) -> None:
        """Tokens that are given, not learned."""
        self.tokens += tokens
        self.targets += [IGNORE] * len(tokens)
        self.positions += range(position, position + len(tokens))
        self.segments += [segment] * len(tokens)
        self.answers += [-1] * len(tokens)

    def add_answer(self, kind: str, tokens: list[int], position: int, segment: int) -> None:
        """ASSISTANT:, the answer and </s>; each of them but the last foretells the next."""
        start = len(self.tokens)
        self.add(tokens, position, segment)
        self.targets[start:-1] = tokens[1:]
        self.answers[start:-1] = [len(self.kinds)] * (len(tokens) - 1)
        self.kinds.append(kind)


class Conversations(IterableDataset[dict[str, Tensor]]):
    """Endless training batches; the same seed gives the same batches for the same weights.

    `weights` is shared with the trainer, one for each of KINDS: how often a kind is asked. Every
    `LONG_EVERY`-th batch has fewer and longer rows, in which pictures come late, or two of them.
    `twin_share`: of the pictures, those chosen for their twins; of the questions about any, those
    that lead to "where is the other one".
    """

    SHORT = (32, 192)  # rows, tokens a row
    LONG = (12, 384)
    LONG_EVERY = 6

    def __init__(
        self,
        pictures: npt.NDArray[np.uint8],
        weights: Tensor,
        seed: int,
        twin_share: float = 0.0,
    ) -> None:
        self.pictures = pictures
        self.weights = weights
        self.seed = seed
        self.twin_share = twin_share

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = Random(self.seed)
        step = 0
        while True:
            step += 1
            weights = dict(zip(KINDS, self.weights.tolist(), strict=True))
            long = step % self.LONG_EVERY == 0
            num_rows, length = self.LONG if long else self.SHORT
            make = self._long_row if long else self._short_row
            yield self._collate([make(rng, length, weights) for _ in range(num_rows)], length)

    def _pick(self, rng: Random, row: Row) -> Scene:
        with_twins = self.twin_share > 0 and rng.random() < self.twin_share
        number, mirrored = rng.randrange(len(self.pictures)), rng.random() < 0.5
        while with_twins and not make_scene(number).has_twins():
            number = rng.randrange(len(self.pictures))
        row.scenes.append((number, mirrored))
        scene = make_scene(number)
        return scene.mirrored() if mirrored else scene

    def _short_row(self, rng: Random, length: int, weights: dict[str, float]) -> Row:
        """One picture at the beginning (now and then none), and branches."""
        ids = token_ids()
        row = Row()
        with_picture = rng.random() < 0.95
        scene = self._pick(rng, row) if with_picture else None
        prefix = [ids[BOS], *_system(rng), ids[USER]] + [ids[IMAGE]] * NUM_PATCHES * with_picture
        row.add(prefix, 0, 0)
        linear = rng.random() < 0.15
        segment = 0
        full = False
        while not full:
            segment += 1
            num_turns = 99 if linear else 1 if rng.random() < 0.55 else rng.randint(2, 9)
            position = len(prefix) + _gap(rng)
            dialogue = Dialogue(rng, scene, weights, twin_share=self.twin_share)
            for turn in range(num_turns):
                question = dialogue.ask()
                words = encode(question.text) if turn == 0 else [ids[USER], *encode(question.text)]
                used = _add_turn(
                    row, question, words, position=position, segment=segment, length=length
                )
                full = used == 0
                if full:
                    break
                position += used
        return row

    def _long_row(self, rng: Random, length: int, weights: dict[str, float]) -> Row:
        """One conversation; its picture may come late, and a second one may follow."""
        ids = token_ids()
        row = Row()
        prefix = [ids[BOS], *_system(rng)]
        row.add(prefix, 0, 0)
        position = len(prefix)
        dialogue = Dialogue(rng, None, weights, twin_share=self.twin_share)
        shows = {rng.choice((0, 0, 0, 1, 2, 3))} if rng.random() < 0.95 else set()
        if rng.random() < 0.35:
            shows.add(rng.randint(1, 8))
        turn = 0
        while True:
            words = [ids[USER]]
            if turn in shows:
                num_pictures = 2 if rng.random() < 0.05 else 1
                if len(row.tokens) + NUM_PATCHES * num_pictures + 80 > length:
                    break
                for _ in range(num_pictures):
                    dialogue.show(self._pick(rng, row))
                words += [ids[IMAGE]] * NUM_PATCHES * num_pictures
            question = dialogue.ask()
            used = _add_turn(
                row,
                question,
                words + encode(question.text),
                position=position,
                segment=0,
                length=length,
            )
            if used == 0:
                break
            position += used
            turn += 1
        return row

    def _collate(self, rows: list[Row], length: int) -> dict[str, Tensor]:
        pad = token_ids()[PAD]
        num_answers = 0
        columns: dict[str, list[list[int]]] = {
            name: [] for name in ("tokens", "targets", "positions", "segments", "answers")
        }
        for row in rows:
            rest = length - len(row.tokens)
            columns["tokens"].append(row.tokens + [pad] * rest)
            columns["targets"].append(row.targets + [IGNORE] * rest)
            columns["positions"].append(row.positions + [0] * rest)
            columns["segments"].append(row.segments + [-1] * rest)
            answers = [number + num_answers if number >= 0 else -1 for number in row.answers]
            columns["answers"].append(answers + [-1] * rest)
            num_answers += len(row.kinds)
        batch = {name: torch.tensor(column) for name, column in columns.items()}
        batch["kinds"] = torch.tensor([KINDS.index(kind) for row in rows for kind in row.kinds])
        shown = [shown for row in rows for shown in row.scenes]
        batch["pixels"], batch["patches"] = _pixels_and_labels(self.pictures, shown)
        return batch


class Patches(IterableDataset[dict[str, Tensor]]):
    """Endless batches of pictures and patch labels alone, for the first stage."""

    def __init__(self, pictures: npt.NDArray[np.uint8], num_pictures: int, seed: int) -> None:
        self.pictures = pictures
        self.num_pictures = num_pictures
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            size = (self.num_pictures,)
            numbers = torch.randint(len(self.pictures), size, generator=generator)
            flips = torch.rand(size, generator=generator) < 0.5
            shown = list(zip(numbers.tolist(), flips.tolist(), strict=True))
            pixels, patches = _pixels_and_labels(self.pictures, shown)
            yield {"pixels": pixels, "patches": patches}


def _pixels_and_labels(
    pictures: npt.NDArray[np.uint8], shown: list[tuple[int, bool]]
) -> tuple[Tensor, Tensor]:
    """Pixels (n, 96, 96, 3) uint8 and patch labels (n, 64, 5) of (number, mirrored)."""
    pixels, labels = [], []
    for number, mirrored in shown:
        picture, scene = pictures[number], make_scene(number)
        pixels.append(picture[:, ::-1] if mirrored else picture)
        labels.append(patch_labels(scene.mirrored() if mirrored else scene))
    return torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(labels))


def _system(rng: Random) -> list[int]:
    return encode(system_text(rng)) if rng.random() < 0.12 else []


def _gap(rng: Random) -> int:
    """Positions that a branch leaves free after the picture: as if more had been said before."""
    return 0 if rng.random() < 0.5 else rng.randint(0, 150 if rng.random() < 0.8 else 600)


def _add_turn(
    row: Row, question: Question, words: list[int], *, position: int, segment: int, length: int
) -> int:
    """Appends one turn; returns its number of tokens, 0 where it does not fit."""
    ids = token_ids()
    answer = [ids[ASSISTANT], *encode(question.answer), ids[EOS]]
    num_tokens = len(words) + len(answer)
    if len(row.tokens) + num_tokens > length:
        return 0
    row.add(words, position, segment)
    row.add_answer(question.kind, answer, position + len(words), segment)
    return num_tokens


def start_weights() -> Tensor:
    """How often each kind is asked before anything is known of its difficulty."""
    return torch.tensor([BASE_WEIGHTS.get(kind, 1.0) for kind in KINDS])
