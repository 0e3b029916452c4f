"""Notices a service that lives and does not serve: stopped, deadlocked, or without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vlm_sessions.serve.patience import Patience

HTTP_OK = 200


async def wait_for_trouble(
    ping: Callable[[float], Awaitable[int | None]], patience: Patience
) -> str:
    """Ask again and again whether the service answers; return what is wrong once it does not.

    An answer that it is not ready is an answer: the worker replaces its engine by itself. Only when
    that takes for ever is it trouble.

    Args:
        ping: asks once, waiting at most so many seconds; the status, or ``None`` without an answer.
    """
    loop = asyncio.get_running_loop()
    num_misses = 0
    last_ready = loop.time()
    while True:
        await asyncio.sleep(patience.ping_interval)
        status = await ping(patience.ping_timeout)
        num_misses = num_misses + 1 if status is None else 0
        if num_misses >= patience.max_misses:
            return f"did not answer {num_misses} times in a row"
        if status == HTTP_OK:
            last_ready = loop.time()
        elif status is not None and loop.time() - last_ready > patience.max_unready:
            return f"has not been ready for {patience.max_unready:g} s"
