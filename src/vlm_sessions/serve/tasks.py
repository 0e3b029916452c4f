"""Small tools for tasks: one that lives as long as a block, and waiting for the first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_Awaitable = Coroutine[Any, Any, Any] | asyncio.Task[Any]


@contextlib.asynccontextmanager
async def background(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``coroutine`` during the block; at its end cancel it and wait until it has cleaned up."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # has been raised by whoever waited for it


async def first_of(*awaitables: _Awaitable, limit: float | None = None) -> None:
    """Return when the first is done, or after ``limit`` seconds; raise what it raised.

    Coroutines that are not done are cancelled, tasks are left running.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task, awaitable in zip(tasks, awaitables, strict=True):
            if task is not awaitable:
                task.cancel()


async def first_result(*coroutines: Coroutine[Any, Any, _T]) -> _T:
    """What the first that is done returns, or raises; the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
