"""Opening, describing, computing ahead, answering without a session; the real engine's loop."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_processor import FakeProcessor
from tests.support.pictures import data_url, encoded
from tests.unit.service.harness import collect, serving
from vlm_sessions.config import Settings
from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.local import LocalEngine
from vlm_sessions.engine.types import PixelImage, Plan, StepResult
from vlm_sessions.errors import (
    ContextOverflow,
    EngineLost,
    ImageForbidden,
    InsufficientStorage,
    Internal,
    InvalidImage,
    PayloadTooLarge,
    ReservedText,
    TooManyImages,
    TooManySessions,
    UnsupportedMedia,
    VlmError,
)
from vlm_sessions.protocol.schema import (
    Answer,
    Generate,
    InlineImage,
    OpenSession,
    Prompt,
    RawImage,
    RewindSession,
)
from vlm_sessions.service import SessionService

CONTENT = encoded("red", (48, 32))
PICTURE = data_url(CONTENT)


async def test_an_image_may_come_as_a_data_url_as_base64_or_as_the_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        base64 = PICTURE.partition(",")[2]
        for image in (
            PICTURE,
            base64,
            InlineImage(data=base64),
            RawImage(content=CONTENT, content_type="image/png"),
        ):
            opened = await harness.service.open(OpenSession(images=(image,)))
            (info,) = opened.images
            assert (info.width, info.height, info.tokens) == (48, 32, 6)
            assert len(info.sha256) == 64
        assert harness.service.num_open_sessions == 4


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (InvalidImage, {"images": (data_url(CONTENT[:60]),)}),
        (InvalidImage, {"images": (PICTURE, data_url(b"text"))}),
        (PayloadTooLarge, {"images": (data_url(encoded(size=(1100, 1000))),)}),
        (ImageForbidden, {"images": ("http://127.0.0.1:1/a.png",)}),
        (UnsupportedMedia, {"images": (RawImage(content=b"", content_type="image/tiff"),)}),
        (TooManyImages, {"images": (PICTURE,) * 3}),
        (ReservedText, {"system": "<image>"}),
        (ContextOverflow, {"system": "x" * 2000}),
    ],
)
async def test_a_refused_opening_takes_no_place(
    tmp_path: Path, error: type[VlmError], fields: dict[str, Any]
) -> None:
    settings = {"max_image_megapixels": 1, "max_images_per_session": 2, "max_sessions": 1}
    async with serving(tmp_path, **settings) as harness:
        with pytest.raises(error):
            await harness.service.open(OpenSession(**fields))
        assert harness.service.num_open_sessions == 0
        await harness.open()
        with pytest.raises(TooManySessions):
            await harness.open(PICTURE)


async def test_images_that_are_fetched_count_together_like_those_that_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = encoded(size=(8, 8)) + bytes(600_000)  # bytes behind a picture's end do no harm
    async with serving(tmp_path, max_payload_mb=1, max_image_mb=1) as harness:

        async def fetch(_: str) -> bytes:
            return big

        monkeypatch.setattr(harness.service._images._fetcher, "fetch", fetch)
        await harness.open("http://pictures.example/1")
        with pytest.raises(PayloadTooLarge, match="together"):
            await harness.open("http://pictures.example/1", "http://pictures.example/2")


async def test_a_full_journal_refuses_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as harness:

        async def full(*_: object) -> None:
            raise InsufficientStorage("full")

        monkeypatch.setattr(harness.service._store._journal, "add", full)
        with pytest.raises(InsufficientStorage):
            await harness.open(PICTURE)
        assert harness.service.num_open_sessions == 0


async def test_what_is_certain_is_computed_when_a_session_opens(tmp_path: Path) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        session = await harness.open(PICTURE, system="s")
        await harness.ask(session)
        (prefill,), (turn,) = harness.engine.prefills, harness.engine.turns
        assert turn.tokens[: len(prefill.tokens)] == prefill.tokens
        assert prefill.images == turn.images
        assert prefill.retention is not None
        assert prefill.retention.key == session


async def test_computing_ahead_that_fails_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, prefill_on_open=True) as harness:
        with monkeypatch.context() as patch:
            patch.setattr(harness.processor, "pixels", None)  # a bug in what it needs
            session = await harness.open(PICTURE)
            await harness.service._prefills.done(session)
        assert (await harness.ask(session)).text == "yes"


async def test_only_so_much_is_computed_ahead_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_sessions.service.prefill.MAX_AT_ONCE", 2)
    async with serving(tmp_path, prefill_on_open=True) as harness:
        may_go_on = asyncio.Event()
        images = harness.service._images
        prepare = images._prepare

        async def slowly(digest: str, owner: str | None, content: bytes | None) -> PixelImage:
            await may_go_on.wait()
            return await prepare(digest, owner, content)

        monkeypatch.setattr(images, "_prepare", slowly)
        sessions = [await harness.open(PICTURE) for _ in range(4)]
        may_go_on.set()
        for session in sessions:
            await harness.service._prefills.done(session)
        assert len(harness.engine.prefills) == 2
        assert (await harness.ask(sessions[3])).text == "yes"


async def test_an_image_at_hand_does_not_depend_on_a_session_that_is_just_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as harness:
        ending = await harness.open(PICTURE)
        reached, may_go_on = asyncio.Event(), asyncio.Event()

        async def gone(_digest: str, _owner: str | None) -> bytes:
            reached.set()
            await may_go_on.wait()
            raise Internal("The journal does not hold it any more.")

        monkeypatch.setattr(harness.service._images, "_read_recorded", gone)
        first = asyncio.create_task(harness.ask(ending))
        await reached.wait()
        command = Generate(prompt="what?", images=(PICTURE,))
        second = asyncio.create_task(collect(await harness.service.generate(command, "r")))
        assert (await second)[1].text == "yes"
        may_go_on.set()
        with pytest.raises(Internal):
            await first


async def test_pixels_wanted_by_several_at_once_are_prepared_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as harness:
        sessions = [await harness.open(PICTURE) for _ in range(5)]
        await asyncio.gather(*(harness.ask(session) for session in sessions))
        assert harness.processor.num_pixel_calls == 1


async def test_describe_tells_the_record_and_where_it_is_cached(tmp_path: Path) -> None:
    async with serving(tmp_path, "fine") as harness:
        session = await harness.open(PICTURE, system="s")
        await harness.ask(session, "how?")
        described = await harness.service.describe(session)
        assert described.system == "s"
        assert described.created_at == described.last_used_at == harness.clock.now
        assert described.max_expires_at == harness.clock.now + 86_400
        assert described.turns[0].images == (described.images[0].sha256,)
        assert described.tokens == len(harness.engine.turns[0].tokens) + 4
        assert described.caches.kv_tokens == described.tokens
        assert described.caches.feature_images == 1


async def test_generate_answers_without_leaving_a_record(tmp_path: Path) -> None:
    async with serving(tmp_path, "red") as harness:
        command = Generate(prompt="colour?", images=(PICTURE,), system="s", seed=5, temperature=1)
        _, answer = await collect(await harness.service.generate(command, "r"))
        assert answer.text == "red"
        assert harness.engine.turns[0].sampling.seed == 5
        assert harness.service.num_open_sessions == 0
        contents = await harness.service._store._journal.load()
        assert contents.sessions == ()


class BreakableRunner(FakeRunner):
    """Fails at its next step when told to."""

    broken = False

    def execute(self, plan: Plan) -> StepResult:
        if self.broken:
            raise RuntimeError("the device is gone")
        return super().execute(plan)


class RealEngine:
    """The engine's own loop and block accounting, over a runner without a model."""

    def __init__(self, directory: Path):
        self.runners: list[BreakableRunner] = []
        self.engine = LocalEngine(self.make_runner, EngineLimits(max_batch_tokens=64))
        settings = Settings(state_dir=directory, default_max_new_tokens=8)
        self.service = SessionService(settings, self.engine, FakeProcessor())

    def make_runner(self) -> BreakableRunner:
        self.runners.append(BreakableRunner(num_blocks=200))
        return self.runners[-1]


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealEngine]:
    real = RealEngine(tmp_path)
    await real.service.start()
    yield real
    await real.service.close()


async def ask(service: SessionService, session: str, text: str) -> Answer:
    return (await collect(await service.prompt(session, Prompt(prompt=text), "r")))[1]


async def test_follow_ups_on_the_real_engine_find_their_conversation_cached(
    real: RealEngine,
) -> None:
    service = real.service
    opened = await service.open(OpenSession(images=(PICTURE,)))
    session = opened.lifetime.session_id
    first = await ask(service, session, "what?")
    second = await ask(service, session, "and?")
    assert first.usage.cached_tokens >= opened.images[0].tokens
    assert second.usage.cached_tokens >= first.usage.prompt_tokens + 6
    stats = await service.engine_stats()
    assert stats.images_encoded_total == 1
    described = await service.describe(session)
    assert described.caches.kv_tokens >= described.tokens - 1
    await service.close_session(session)
    assert (await service.engine_stats()).blocks_retained == 0


async def test_forks_and_rewound_sessions_on_the_real_engine_compute_only_what_is_new(
    real: RealEngine,
) -> None:
    service = real.service
    parent = (await service.open(OpenSession(images=(PICTURE,)))).lifetime.session_id
    first = await ask(service, parent, "what?")
    second = await ask(service, parent, "and?")
    before = first.usage.prompt_tokens + first.usage.completion_tokens
    fork = (await service.fork(parent)).lifetime.session_id
    in_fork = await ask(service, fork, "or?")
    assert num_computed(in_fork) == num_asked("or?")
    await service.rewind(parent, RewindSession(turns=1))
    again = await ask(service, parent, "and?")
    assert again.text == second.text
    assert num_computed(again) == 1, "it was all said before, and the last token is drawn after"
    await service.rewind(parent, RewindSession(turns=1))
    other = await ask(service, parent, "ah?")
    assert other.usage.prompt_tokens == before + num_asked("ah?")
    assert num_computed(other) == 3, "what follows the first letter, which both questions share"
    await service.close_session(parent)
    assert (await service.engine_stats()).blocks_retained > 0, "the fork's"
    await service.close_session(fork)
    assert (await service.engine_stats()).blocks_retained == 0


def num_computed(answer: Answer) -> int:
    return answer.usage.prompt_tokens - answer.usage.cached_tokens


def num_asked(text: str) -> int:
    """Tokens that a follow-up question adds to its conversation."""
    return len(FakeProcessor().encode_turn(first=False, system=None, text=text, images=[]).tokens)


async def test_after_an_engine_failure_the_conversation_goes_on_as_without_it(
    real: RealEngine,
) -> None:
    service = real.service
    opened = await service.open(OpenSession(images=(PICTURE,)))
    twin = (await service.open(OpenSession(images=(PICTURE,)))).lifetime.session_id
    session = opened.lifetime.session_id
    expected = [(await ask(service, twin, text)).text for text in ("a", "b")]
    assert (await ask(service, session, "a")).text == expected[0]
    real.runners[0].broken = True
    with pytest.raises(EngineLost):
        await ask(service, session, "b")
    await real.engine.close()  # its supervisor would replace it
    await real.engine.start()
    again = await ask(service, session, "b")
    assert again.text == expected[1]
    assert again.usage.cached_tokens == 0
