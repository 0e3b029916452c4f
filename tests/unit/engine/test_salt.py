"""Turns of different salts share nothing; those of one salt, or of none, share what they did."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.unit.engine.helpers import IMAGE_TOKEN, turn
from vlm_sessions.engine.content import TokenChain, salted
from vlm_sessions.engine.fake import FakeRunner, fake_pixels, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.local import LocalEngine
from vlm_sessions.engine.types import (
    CacheLocation,
    ImageSpan,
    PixelImage,
    Prefilled,
    TokenOut,
    Turn,
)
from vlm_sessions.errors import Internal

ALICE, BOB, NOBODY = "alice", "bob", ""


class Asking:
    """An engine, and the digests that it asked pixels for."""

    def __init__(self) -> None:
        self.runner = FakeRunner(block_size=4, num_blocks=256)
        self.engine = LocalEngine(lambda: self.runner, EngineLimits())
        self.asked_for: list[str] = []

    async def pixels(self, digest: str) -> PixelImage:
        self.asked_for.append(digest)
        return fake_pixels(digest)

    async def run(self, plain: Turn, salt: str) -> Prefilled:
        """Have it computed; the answer is that of any other turn of these tokens."""
        asked = msgspec.structs.replace(plain, salt=salt)
        events = [event async for event in self.engine.submit(asked, self.pixels)]
        tokens = [event.token for event in events if isinstance(event, TokenOut)]
        assert tokens == reference_answer(plain)
        (prefilled,) = [event for event in events if isinstance(event, Prefilled)]
        return prefilled

    async def locate(self, plain: Turn, salt: str) -> CacheLocation:
        return await self.engine.locate(plain.tokens, plain.images, salt=salt)


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    asking = Asking()
    await asking.engine.start()
    yield asking
    await asking.engine.close()


async def test_what_one_has_shown_and_asked_is_new_to_the_other(asking: Asking) -> None:
    first = turn("a", 7, ("cat", 9), 20, 21, 22, new=3)
    again = turn("b", 7, ("cat", 9), 20, 21, 22, new=3)
    await asking.run(first, ALICE)
    assert asking.asked_for == ["cat"]
    bobs = await asking.run(again, BOB)
    assert (bobs.cached_tokens, bobs.images_encoded) == (0, 1)
    assert asking.asked_for == ["cat", "cat"]
    nobodys = await asking.run(turn("c", 7, ("cat", 9), 20, 21, 22, new=3), NOBODY)
    assert (nobodys.cached_tokens, nobodys.images_encoded) == (0, 1)


async def test_what_one_has_shown_and_asked_is_cached_for_itself(asking: Asking) -> None:
    for salt in (ALICE, NOBODY):
        await asking.run(turn(f"{salt}1", 7, ("cat", 9), 20, 21, 22, new=3), salt)
        asking.asked_for.clear()
        again = await asking.run(turn(f"{salt}2", 7, ("cat", 9), 20, 21, 30, new=3), salt)
        assert (again.cached_tokens, again.images_encoded) == (12, 0)
        assert asking.asked_for == []


async def test_not_even_a_part_of_the_first_block_is_found(asking: Asking) -> None:
    await asking.run(turn("a", 5, 6, 7, 8, new=1), ALICE)
    assert (await asking.run(turn("b", 5, 6, 9, new=1), ALICE)).cached_tokens == 2
    for salt in (BOB, NOBODY):
        assert (await asking.run(turn(f"{salt}c", 5, 6, 9, new=1), salt)).cached_tokens == 0


async def test_nor_is_a_text_of_many_blocks(asking: Asking) -> None:
    await asking.run(turn("a", *range(10, 31), new=1), ALICE)
    assert (await asking.run(turn("b", *range(10, 31), new=1), ALICE)).cached_tokens == 20
    for salt in (BOB, NOBODY):
        assert (await asking.run(turn(f"{salt}c", *range(10, 31), new=1), salt)).cached_tokens == 0


async def test_a_text_that_begins_with_an_image_is_no_ones_but_its_clients(asking: Asking) -> None:
    await asking.run(turn("a", ("cat", 6), 8, new=1), ALICE)
    assert (await asking.run(turn("b", ("cat", 6), 9, new=1), BOB)).cached_tokens == 0


async def test_where_a_prefix_is_cached_is_told_to_its_own_client_by_digest(
    asking: Asking,
) -> None:
    shown = turn("a", 7, ("cat", 9), 20, new=1)
    await asking.run(shown, ALICE)
    alices = await asking.locate(shown, ALICE)
    assert alices.kv_tokens == 11
    assert alices.features == ("cat",)
    for salt in (BOB, NOBODY):
        elsewhere = await asking.locate(shown, salt)
        assert (elsewhere.kv_tokens, elsewhere.host_kv_tokens) == (0, 0)
        assert elsewhere.features == elsewhere.host_features == elsewhere.pixels == ()


async def test_turns_that_run_at_the_same_time_do_not_wait_for_each_others_prefix(
    asking: Asking,
) -> None:
    """Of one salt, the younger one would: then both encode one image and compute one prefix."""
    streams = [
        asking.engine.submit(
            msgspec.structs.replace(turn(salt, 7, ("cat", 30), 20, new=2), salt=salt),
            asking.pixels,
        )
        for salt in (ALICE, BOB)
    ]
    events = [[event async for event in stream] for stream in streams]
    assert [e.cached_tokens for each in events for e in each if isinstance(e, Prefilled)] == [0, 0]
    assert (await asking.engine.stats()).images_encoded_total == 2


async def test_pixels_of_another_image_are_refused_under_a_salt_too(asking: Asking) -> None:
    async def wrong(_: str) -> PixelImage:
        return fake_pixels("dog")

    shown = msgspec.structs.replace(turn("a", ("cat", 4), 5), salt=ALICE)
    with pytest.raises(Internal):
        async for _ in asking.engine.submit(shown, wrong):
            pass


def test_without_a_salt_the_names_are_those_of_before() -> None:
    """They were taken from the release before salts."""
    images = (ImageSpan("cat", 1, 4),)
    chain = TokenChain((7, *[IMAGE_TOKEN] * 4, 8, 9, 10), images, 4)
    assert [name.hex() for name in chain.hashes] == [
        "f4b332d41a0c59247bbd8a67a50df88e",
        "9e543e028379bfe0d2db7fd1fe926557",
    ]
    assert chain.content(0, 2)[:20] == (7).to_bytes(4) + bytes(16)
    assert salted("cat", "") == "cat"


def test_a_salts_names_are_no_others() -> None:
    images = (ImageSpan("cat", 1, 2),)
    names = [
        name
        for salt in ("", "a", "b", "cat", "cat:a")
        for name in (
            salted("cat", salt),
            *TokenChain((7, 1, 1, 8, 9, 10), images, 2, salt).hashes,
        )
    ]
    assert len(set(names)) == len(names)
