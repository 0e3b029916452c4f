"""The weights that are shipped, asked a few dozen questions. The full proof is `demo.evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from demo.dialogue import FOLLOW_UPS
from demo.evaluate import sessions, single_questions
from demo.talker import Message, Talker

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def talker() -> Talker:
    return Talker(str(DEMO / "model"))


def test_weights_are_small() -> None:
    assert (DEMO / "model" / "model.safetensors").stat().st_size <= 8_000_000


def test_held_out_questions(talker: Talker) -> None:
    score = single_questions(talker, 3, section=20)
    assert score.num_asked() > 80
    assert score.accuracy() >= 0.9, score.wrong


def test_held_out_sessions(talker: Talker) -> None:
    score = sessions(talker, "sessions", num_sessions=12, num_turns=6, section=21)
    assert score.accuracy() >= 0.9, score.wrong
    assert score.accuracy(FOLLOW_UPS) >= 0.9, score.wrong


def test_the_sample_conversations(talker: Talker) -> None:
    talks = json.loads((DEMO / "pictures" / "conversations.json").read_text())
    for file, talk in talks.items():
        messages: list[Message] = []
        with Image.open(DEMO / "pictures" / file) as image:
            for question, answer in talk:
                parts: list[Message] = [{"type": "text", "text": question}]
                if not messages:
                    parts.insert(0, {"type": "image"})
                messages.append({"role": "user", "content": parts})
                given = talker.answer([messages], [[image]])[0]
                assert given == answer, f"{file}: {question}"
                messages.append({"role": "assistant", "content": given})


def test_without_a_picture(talker: Talker) -> None:
    chat: list[Message] = [{"role": "user", "content": "What is in the top left?"}]
    assert talker.answer([chat], [[]]) == ["please show me a picture"]
