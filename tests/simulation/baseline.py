"""What is left of a service that has nothing more to do: nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.simulation.child import SimulatedChild
from vlm_sessions.engine.streams import StreamingEngine
from vlm_sessions.service import SessionService
from vlm_sessions.sessions.journal import DATABASE_NAME

TASKS = {"sweeper", "engine-keeper"}


def check_baseline(
    service: SessionService, child: SimulatedChild, *, loop: asyncio.AbstractEventLoop
) -> None:
    """All sessions are closed, all prompts over.

    Raises:
        AssertionError: something is kept for one of them.
    """
    _check_worker(service)
    _check_engine(child)
    names = {task.get_name() for task in asyncio.all_tasks(loop)}
    prompts = {name for name in names if name.startswith("prompt-")}
    assert not prompts, "a prompt that is over has no task"
    assert names >= TASKS


def _check_worker(service: SessionService) -> None:
    store, turns = service._store, service._turns
    assert service.num_open_sessions == 0
    assert service.num_prompts == 0
    assert not store._num_users
    assert not store._room._num_of
    assert not store._changes
    assert not store._journalled_until
    assert not turns._running
    assert not turns._admission._lines
    assert not service._prefills._tasks
    engine = service._engine
    assert isinstance(engine, StreamingEngine)
    assert not engine._turns
    assert not engine._asked
    assert not service._images._preparing


def _check_engine(child: SimulatedChild) -> None:
    engine = child.engine
    assert engine is not None
    caches, turns = engine.scheduler.caches, engine.scheduler._turns
    assert len(turns) == 0
    assert not turns._claims._owners
    assert not turns._claims._waiting
    assert caches.pool.num_in_use == 0
    assert not caches.pool._kept.retentions.tips(), "nobody wants a prefix any more"
    assert not caches.images.features._wishes._digests, "nobody wants an image any more"
    assert not caches.images.features.users()
    assert caches.images.pixels.num_pins == 0
    assert not caches.images._awaited
    assert not caches.images.encoding.has_work
    engine.clear()
    if engine.has_work:
        engine.step()
    engine.check_integrity()
    stats = engine.stats()
    assert (stats.blocks_cached, stats.host_blocks_stored) == (0, 0)
    assert (stats.features_cached, stats.host_features_stored, stats.pixels_cached) == (0, 0, 0)


def check_journal_is_empty(directory: Path) -> None:
    """The last session has ended long ago."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        for table in ("sessions", "turns", "session_images", "images"):
            [(num_rows,)] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
            assert num_rows == 0, f"{num_rows} rows are left in {table}"
