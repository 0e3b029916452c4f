"""The rule again, from where a client stands: whole service, real engine process, journal on disk.

Requests go in as HTTP and come out as JSON; only the sockets of HAProxy and TorchServe are left out
(``tests/torchserve`` has them). Beside it ``generate`` answers the same conversation.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from tests.model.reference import Reference
from tests.model.tiny import noise_image
from vlm_sessions.build import App
from vlm_sessions.config import Settings
from vlm_sessions.engine.types import PixelImage
from vlm_sessions.model.processor import HFProcessor, make_processor
from vlm_sessions.processing import ImageRef
from vlm_sessions.protocol.http import HttpRequest

NUM_TURNS = 6
DISTURBED = (2, 4)
"""Before these turns something happens: starting anew takes seconds, mostly of imports."""
MAX_NEW_TOKENS = 12
QUESTIONS = ("What is this?", "And behind it?", "How many?", "Is it red?", "Why?", "Is it big?")


class Conversation:
    """One session of the service, and the same conversation under ``generate``."""

    def __init__(self, processor: HFProcessor, reference: Reference, picture: Image.Image) -> None:
        self._processor, self._reference, self._picture = processor, reference, picture
        self._tokens: list[int] = []
        self._pixels: list[PixelImage] = [processor.pixels(picture, "picture")]
        self._session_id = ""
        self._beginnings: list[int] = []
        """How many tokens there were before each turn."""

    async def open(self, app: App) -> None:
        data = io.BytesIO()
        self._picture.save(data, "PNG")
        image = {"data": base64.b64encode(data.getvalue()).decode()}
        opened = await invoke(app, {"type": "open_session", "images": [image]})
        self._session_id = opened["session_id"]

    async def fork(self, app: App) -> Conversation:
        forked = await invoke(app, {"type": "fork_session"}, self._session_id)
        fork = Conversation(self._processor, self._reference, self._picture)
        fork._tokens, fork._beginnings = list(self._tokens), list(self._beginnings)
        fork._session_id = forked["session_id"]
        return fork

    async def rewind(self, app: App, turns: int) -> None:
        await invoke(app, {"type": "rewind_session", "turns": turns}, self._session_id)
        del self._tokens[self._beginnings[-turns] :], self._beginnings[-turns:]

    async def ask(self, app: App, question: str) -> dict[str, Any]:
        """One turn on both sides; asserts that they say the same in as many tokens."""
        expected = self._expect(question)
        command = {"type": "prompt", "prompt": question, "max_new_tokens": MAX_NEW_TOKENS}
        answer = await invoke(app, command, self._session_id)
        assert answer["text"] == self._processor.decode(expected)
        assert answer["usage"]["completion_tokens"] == len(expected)
        return answer

    def _expect(self, question: str) -> list[int]:
        first = not self._tokens
        self._beginnings.append(len(self._tokens))
        size = self._picture.width, self._picture.height
        refs = [ImageRef("picture", self._processor.num_image_tokens(*size))] if first else []
        segment = self._processor.encode_turn(first=first, system=None, text=question, images=refs)
        self._tokens += segment.tokens
        answer = self._reference.answer(self._tokens, self._pixels, max_new_tokens=MAX_NEW_TOKENS)
        self._tokens += answer
        return answer


async def invoke(app: App, command: dict[str, Any], session_id: str = "") -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    if session_id:
        headers["x-amzn-sagemaker-session-id"] = session_id
    body = json.dumps(command).encode()
    deadline = time.monotonic() + 60
    while True:
        request = HttpRequest(uuid.uuid4().hex, "POST", "/invocations", headers, body)
        reply = await app.handle(request)
        assert isinstance(reply.body, bytes)
        if reply.status != 503 or time.monotonic() > deadline:
            break
        # "Send it again", the reply says: an error changes nothing, so that is all there is to do
        await asyncio.sleep(0.1)
    assert reply.status == 200, reply.body.decode()
    result: dict[str, Any] = json.loads(reply.body)
    return result


def engine_process(model: Path) -> psutil.Process:
    children = psutil.Process().children(recursive=True)
    (engine,) = [child for child in children if str(model) in child.cmdline()]
    return engine


@asynccontextmanager
async def running(
    model: Path, state_dir: Path, **other_settings: Any
) -> AsyncIterator[Callable[[], Awaitable[App]]]:
    """Gives a function that starts the service on the directory, ending the one before."""
    settings = Settings(
        state_dir=state_dir,
        dtype="float32",
        device="cpu",
        threads=1,
        kv_cache_mb=8,
        **other_settings,
    )
    apps: list[App] = []

    async def start() -> App:
        while apps:
            await apps.pop().close()
        app = App(settings, str(model), "tiny")
        apps.append(app)
        await app.start()
        return app

    try:
        yield start
    finally:
        for app in apps:
            await app.close()


async def hold(
    model: Path, state_dir: Path, *, num_sessions: int = 1, between: str = ""
) -> Sequence[dict[str, Any]]:
    """Hold sessions of six turns, with something happening to the service between turns."""
    processor, reference = make_processor(model), Reference(model)
    async with running(model, state_dir) as start:
        app = await start()
        conversations = [
            Conversation(processor, reference, noise_image(n)) for n in range(num_sessions)
        ]
        for conversation in conversations:
            await conversation.open(app)
        answers = []
        for turn in range(NUM_TURNS):
            if turn in DISTURBED and between == "engine killed":
                engine = engine_process(model)
                engine.kill()
                engine.wait(10)
            if turn in DISTURBED and between == "service restarted":
                app = await start()
            for conversation in conversations:
                answers.append(await conversation.ask(app, QUESTIONS[turn]))
    assert sum(answer["usage"]["completion_tokens"] for answer in answers) > len(answers)
    return answers


async def test_six_turns_of_a_session_answer_as_generate_does(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    answers = await hold(tiny_paths["plain"], tmp_path)
    processor = make_processor(tiny_paths["plain"])
    num_asked = [
        len(processor.encode_turn(first=False, system=None, text=text, images=[]).tokens)
        for text in QUESTIONS
    ]
    later = [answer["usage"] for answer in answers[1:]]
    # only what is new is computed: the question, and the token before it, if that was drawn last
    computed = [usage["prompt_tokens"] - usage["cached_tokens"] for usage in later]
    assert all(new <= num <= new + 1 for num, new in zip(computed, num_asked[1:], strict=True))


async def test_answers_are_the_same_when_the_engine_is_killed_between_turns(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    answers = await hold(tiny_paths["plain"], tmp_path, between="engine killed", num_sessions=2)
    assert answers[4]["usage"]["cached_tokens"] == 0, "a new engine process has no cache"


async def test_answers_are_the_same_when_the_service_restarts_between_turns(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    await hold(tiny_paths["plain"], tmp_path, between="service restarted")


async def test_forked_and_rewound_sessions_answer_as_generate_does_whatever_dies_between(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    model = tiny_paths["plain"]
    async with running(model, tmp_path) as start:
        app = await start()
        first = Conversation(make_processor(model), Reference(model), noise_image(0))
        await first.open(app)
        early = await first.fork(app)
        for question in QUESTIONS[:3]:
            await first.ask(app, question)
        late = await first.fork(app)
        await first.rewind(app, 2)
        answer = await first.ask(app, QUESTIONS[4])
        assert answer["usage"]["cached_tokens"] > 0
        engine = engine_process(model)
        engine.kill()
        engine.wait(10)
        for conversation in (late, first, early):
            await conversation.ask(app, QUESTIONS[3])
        app = await start()
        await late.rewind(app, 4)
        for conversation in (late, first, early):
            await conversation.ask(app, QUESTIONS[5])
