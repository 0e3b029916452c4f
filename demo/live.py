"""Measures the model through a running service, in live sessions: `python -m demo.live`.

The same conversations and the same scoring as `demo.evaluate`, but each is a session of the real
service: its picture is sent once, every question alone, and what was said before is what the
service remembers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from demo.dialogue import FOLLOW_UPS
from demo.evaluate import sessions
from demo.score import Score
from demo.talker import Message
from vlm_sessions.client import Client, Session

NUM_TURNS = 10
SECTION = 40
"""A range of pictures that no section of `demo.evaluate` uses."""


class LiveTalker:
    """Answers as the service does: one session for each conversation."""

    def __init__(self, url: str) -> None:
        self._client = Client(url)
        self._sessions: dict[int, Session] = {}
        """id of a conversation's list of messages -> its session"""

    def answer(self, chats: list[list[Message]], images: list[list[Image.Image]]) -> list[str]:
        """Ask the last question of each conversation in its session."""
        return [self._ask(chat, shown) for chat, shown in zip(chats, images, strict=True)]

    def _ask(self, chat: list[Message], shown: list[Image.Image]) -> str:
        if id(chat) not in self._sessions:
            self._sessions[id(chat)] = self._client.open()
        parts = chat[-1]["content"]
        num_new = sum(part["type"] == "image" for part in parts)
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        new = shown[len(shown) - num_new :]
        # the service refuses an empty prompt; to the model a space is the same
        return self._sessions[id(chat)].ask(text or " ", images=new).text

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._client.close()


def ask_sessions(url: str, num_sessions: int) -> Score:
    """Hold conversations of ten turns; the model's own answers are what was said before."""
    talker = LiveTalker(url)
    try:
        return sessions(
            talker,
            "live sessions",
            num_sessions=num_sessions,
            num_turns=NUM_TURNS,
            section=SECTION,
        )
    finally:
        talker.close()


def summary(score: Score) -> dict[str, Any]:
    """What was asked and right: in all, of follow-ups, of each kind."""
    follow_ups = {
        "asked": score.num_asked(FOLLOW_UPS),
        "accuracy": round(score.accuracy(FOLLOW_UPS), 4),
    }
    return {"follow_ups": follow_ups, **score.summary(), "wrong": score.wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--sessions", type=int, default=200, help="each of ten questions")
    parser.add_argument("--out", type=Path, help="writes the figures into this file")
    args = parser.parse_args()
    figures = summary(ask_sessions(args.url, args.sessions))
    table = Table("", "asked", "right")
    table.add_row("all", str(figures["asked"]), f"{figures['accuracy']:.1%}")
    follow_ups = figures["follow_ups"]
    table.add_row("follow-ups", str(follow_ups["asked"]), f"{follow_ups['accuracy']:.1%}")
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
