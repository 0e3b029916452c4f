"""Counts right answers, and shows them as JSON, as text and as the tables of the model card."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.answers import Question
from demo.dialogue import FOLLOW_UPS, TALK_KINDS
from demo.questions import QUESTIONS

SINGLE, LIVE = "first question of a session", "sessions of 10 turns"
# the card's tables stand between these lines
_BEGIN, _END = "<!-- figures: written by demo.evaluate -->", "<!-- end of figures -->"


@dataclass
class Score:
    """Right answers by kind of question."""

    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: list[dict[str, str]] = field(default_factory=list)

    def add(self, question: Question, given: str, where: str = "") -> None:
        self.asked[question.kind] += 1
        self.right[question.kind] += given == question.answer
        if given != question.answer:
            self.wrong.append(
                {
                    "kind": question.kind,
                    "question": question.text,
                    "right": question.answer,
                    "given": given,
                    "where": where,
                }
            )

    def accuracy(self, kinds: Iterable[str] | None = None) -> float:
        chosen = list(self.asked if kinds is None else kinds)
        asked = sum(self.asked.get(kind, 0) for kind in chosen)
        return sum(self.right.get(kind, 0) for kind in chosen) / asked if asked else 1.0

    def num_asked(self, kinds: Iterable[str] | None = None) -> int:
        return sum(self.asked.get(kind, 0) for kind in (self.asked if kinds is None else kinds))

    def summary(self) -> dict[str, Any]:
        kinds = {
            kind: {"asked": self.asked[kind], "accuracy": round(self.accuracy([kind]), 4)}
            for kind in sorted(self.asked)
        }
        return {"asked": self.num_asked(), "accuracy": round(self.accuracy(), 4), "kinds": kinds}


def sections_table(scores: dict[str, Score]) -> list[tuple[str, ...]]:
    """Rows of text, the first of them the header."""
    live = scores[LIVE]
    rows: list[tuple[str, ...]] = [("section", "questions", "right")]
    rows += [(name, str(s.num_asked()), f"{s.accuracy():.1%}") for name, s in scores.items()]
    follow_ups = (str(live.num_asked(FOLLOW_UPS)), f"{live.accuracy(FOLLOW_UPS):.1%}")
    rows.insert(3, ("of these: follow-ups", *follow_ups))
    return rows


def kinds_table(scores: dict[str, Score]) -> list[tuple[str, ...]]:
    """Rows of text, the first of them the header."""
    rows: list[tuple[str, ...]] = [("kind", "first question", "right", "in sessions", "right")]
    for kind in (*QUESTIONS, *FOLLOW_UPS, *TALK_KINDS):
        cells = [kind]
        for score in (scores[SINGLE], scores[LIVE]):
            asked = score.num_asked([kind])
            cells += [str(asked), f"{score.accuracy([kind]):.1%}"] if asked else ["", ""]
        rows.append(tuple(cells))
    return rows


def show(scores: dict[str, Score], console: Console) -> None:
    for header, *rows in (sections_table(scores), kinds_table(scores)):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write(scores: dict[str, Score], folder: Path) -> None:
    """Writes evaluation.json, and the tables of the README.md that lies there."""
    result = {
        "sections": {name: score.summary() for name, score in scores.items()},
        "follow_ups": {
            "asked": scores[LIVE].num_asked(FOLLOW_UPS),
            "accuracy": round(scores[LIVE].accuracy(FOLLOW_UPS), 4),
        },
        "wrong": [mistake for score in scores.values() for mistake in score.wrong],
    }
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    card = folder / "README.md"
    if card.exists():
        before, _, rest = card.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        tables = "\n\n".join(_markdown(t) for t in (sections_table(scores), kinds_table(scores)))
        card.write_text(f"{before}{_BEGIN}\n\n{tables}\n\n{_END}{after}")


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
