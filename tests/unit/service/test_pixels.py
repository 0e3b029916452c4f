"""Pixels for the engine: prepared once for all who wait, whoever of them leaves."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from tests.support.fake_processor import FakeProcessor
from vlm_sessions.config import Settings
from vlm_sessions.errors import SessionClosed
from vlm_sessions.media.fetch import ImageFetcher
from vlm_sessions.service.images import ImageDesk


async def test_pixels_that_nobody_waits_for_any_more_fail_without_a_word() -> None:
    """Found by the simulation: a session was closed while the pixels of its image were being made,
    and asyncio logged an exception that was never retrieved."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    is_closed = asyncio.Event()

    async def read_recorded(_: str, __: str | None) -> bytes:
        await is_closed.wait()
        raise SessionClosed("The session ended while the prompt ran.")

    settings = Settings()
    desk = ImageDesk(settings, FakeProcessor(), ImageFetcher(settings), read_recorded)
    waiting = asyncio.ensure_future(desk.pixel_source({})("digest"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    is_closed.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not desk._preparing
    del waiting  # its frames hold what it waited for
    gc.collect()
    assert complaints == []
    await desk.close()
