"""A service over a scripted engine, a fake processor, a real journal and a clock that stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from tests.support.clock import Clock
from tests.support.fake_processor import FakeProcessor
from tests.support.scripted_engine import ScriptedAnswer, ScriptedEngine
from vlm_sessions.config import Settings
from vlm_sessions.protocol.schema import Answer, Chat, ChatMessage, OpenSession, Prompt, TextDelta
from vlm_sessions.service import AnswerStream, SessionService


class Harness:
    def __init__(self, directory: Path, *answers: ScriptedAnswer, **settings: Any) -> None:
        self.clock = Clock()
        self.engine = ScriptedEngine(*answers)
        self.processor = FakeProcessor()
        self.settings = Settings(state_dir=directory, prefill_on_open=False).model_copy(
            update=settings
        )
        self.service = self.make_service()

    def make_service(self) -> SessionService:
        return SessionService(self.settings, self.engine, self.processor, clock=self.clock)

    async def restart(self) -> None:
        await self.service.close()
        self.service = self.make_service()
        await self.service.start()

    async def open(self, *images: str, system: str | None = None) -> str:
        opened = await self.service.open(OpenSession(images=images, system=system))
        return opened.lifetime.session_id

    async def stream(self, session_id: str, text: str = "q", **fields: Any) -> AnswerStream:
        return await self.service.prompt(session_id, Prompt(prompt=text, **fields), "r-" + text)

    async def ask(self, session_id: str, text: str = "q", **fields: Any) -> Answer:
        return (await collect(await self.stream(session_id, text, **fields)))[1]

    async def chat(self, session_id: str, *messages: Any, **fields: Any) -> Answer:
        command = Chat(messages=tuple(message(*one) for one in messages), **fields)
        return (await collect(await self.service.prompt(session_id, command, "r")))[1]

    async def turns(self, session_id: str) -> list[tuple[str, str]]:
        described = await self.service.describe(session_id)
        return [(turn.prompt, turn.answer) for turn in described.turns]


def message(role: Literal["system", "user", "assistant"], text: str, *images: str) -> ChatMessage:
    return ChatMessage(role=role, text=text, images=images)


async def collect(stream: AnswerStream) -> tuple[list[str], Answer]:
    """The pieces and the answer, which must agree."""
    pieces: list[str] = []
    answer = None
    async for event in stream.events:
        assert answer is None, "nothing follows the answer"
        if isinstance(event, TextDelta):
            pieces.append(event.text)
        else:
            answer = event
    assert answer is not None
    assert "".join(pieces) == answer.text
    return pieces, answer


@asynccontextmanager
async def serving(
    directory: Path, *answers: ScriptedAnswer, **settings: Any
) -> AsyncIterator[Harness]:
    harness = Harness(directory, *answers, **settings)
    await harness.service.start()
    try:
        yield harness
    finally:
        harness.engine.gate.set()
        await harness.service.close()
