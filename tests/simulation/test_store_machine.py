"""The store and its journal, one change after another, against a model that is a dictionary.

The worlds of ``test_simulation.py`` have the same store under many hands at once. Here hypothesis
finds the shortest story. The journal's thread and its disk are simulated, SQLite is not.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.simulation.baseline import check_journal_is_empty
from tests.simulation.journals import Disk, SimulatedJournal
from tests.simulation.loop import SimulatedLoop
from tests.support.clock import Clock
from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    InsufficientStorage,
    SessionExpired,
    TooFewTurns,
    TooManySessions,
)
from vlm_sessions.sessions.database import read_all
from vlm_sessions.sessions.journal import DATABASE_NAME
from vlm_sessions.sessions.session import ImagePlace, Session, SessionImage, SessionTurn
from vlm_sessions.sessions.store import SessionStore

T = TypeVar("T")

SETTINGS = Settings(
    session_idle_seconds=60, session_max_seconds=300, tombstone_seconds=100, max_sessions=4
)
PICTURES = {name: SessionImage(name, 3, 4, 5, "PNG") for name in ("cat", "dog", "cow")}
pictures = st.lists(st.sampled_from(sorted(PICTURES)), max_size=2).map(tuple)
places = st.integers(0, SETTINGS.max_sessions - 1)


@dataclass(frozen=True)
class _Known:
    """What must be known of an open session."""

    system: str | None
    opening_system: str | None
    images: tuple[str, ...]
    prompts: tuple[str, ...]
    until: float
    """When it may end at the earliest."""


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.directory = self.root / "0"
        self.num_starts = self.num_turns = 0
        self.clock = Clock()
        self.latest = self.clock.now
        """That the clock has shown since the last invariant was checked."""
        self.loop = SimulatedLoop(Random(0))
        self.disk = Disk(Random(0))
        self.known: dict[str, _Known] = {}

    @initialize()
    def start(self) -> None:
        self.num_starts += 1
        self.journal = SimulatedJournal(self.directory, self.loop, Random(0), self.disk)
        self.store = SessionStore(self.journal, SETTINGS, self.clock)
        self.run(self.store.start())

    # --- changes --------------------------------------------------------------------------------

    @rule(system=st.sampled_from([None, "Be."]), images=pictures)
    def open(self, system: str | None, images: tuple[str, ...]) -> None:
        opening = self.store.open(
            model="m",
            system=system,
            images=tuple(PICTURES[name] for name in images),
            contents={name: name.encode() for name in images},
        )
        session = self.attempt(opening)
        if session is not None:
            self.learn(session)

    @rule(place=places)
    def fork(self, place: int) -> None:
        parent = self.pick(place)
        if parent is None:
            return
        session = self.attempt(self.store.fork(parent))
        if session is not None:
            self.learn(session)
            known = self.known[parent]
            assert self.known[session.id] == replace(known, until=self.known[session.id].until)

    @rule(place=places, images=pictures, system=st.sampled_from([None, "Be.", "Be brief."]))
    def answer(self, place: int, images: tuple[str, ...], system: str | None) -> None:
        session_id = self.pick(place)
        if session_id is None:
            return
        session = self.store.get(session_id)
        self.num_turns += 1
        shown = images if session.turns else (*(i.digest for i in session.images), *images)
        turn = SessionTurn(
            prompt=f"q{self.num_turns}",
            images=tuple(ImagePlace(name, 5 * n, 5) for n, name in enumerate(shown)),
            prompt_tokens=(0,) * 5 * len(shown) + (7,),
            answer_tokens=(8,),
            answer="a",
            finish_reason="stop",
        )
        after = self.attempt(
            self.store.append(
                session,
                turn,
                images=tuple(PICTURES[name] for name in images),
                contents={name: name.encode() for name in images},
                system=session.system if session.turns else system,
            )
        )
        if after is not None:
            known = self.known[session_id]
            self.learn(after)
            assert self.known[session_id].prompts == (*known.prompts, turn.prompt)

    @rule(place=places, num_turns=st.integers(1, 3))
    def rewind(self, place: int, num_turns: int) -> None:
        session_id = self.pick(place)
        if session_id is None:
            return
        known = self.known[session_id]
        after = self.attempt(self.store.rewind(session_id, num_turns))
        if after is not None:
            self.learn(after)
            assert self.known[session_id].prompts == known.prompts[:-num_turns]
            if not after.turns:
                assert after.system == known.opening_system

    @rule(place=places)
    def touch(self, place: int) -> None:
        session_id = self.pick(place)
        if session_id is None:
            return
        after = self.attempt(self.store.touch(session_id))
        if after is not None:
            self.learn(after)

    @rule(place=places)
    def end(self, place: int) -> None:
        session_id = self.pick(place)
        if session_id is None:
            return
        if self.attempt(self.store.end(session_id)) is not None:
            del self.known[session_id]
            assert not self.store.is_open(session_id)

    @rule()
    def sweep(self) -> None:
        self.attempt(self.store.sweep())

    # --- what befalls it ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 10.0, 50.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.latest = max(self.latest, self.clock.now)

    @rule(seconds=st.sampled_from([-1000.0, -100.0, -7.0, 7.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(is_full=st.booleans())
    def the_disk_changes(self, is_full: bool) -> None:
        self.disk.is_full = is_full

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.start()

    @rule()
    def crash(self) -> None:
        self.directory, died = self.root / str(self.num_starts), self.directory
        self.directory.mkdir(mode=0o700)
        for file in died.glob(f"{DATABASE_NAME}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.directory)
        self.journal.abandon()
        self.start()

    @precondition(lambda self: not self.disk.is_full)
    @rule(after=st.integers(0, 8), place=places, images=pictures)
    def crash_in_the_middle_of_an_answer(
        self, after: int, place: int, images: tuple[str, ...]
    ) -> None:
        """The turn is there or it is not."""
        session_id = self.pick(place)
        if session_id is None:
            return
        before, copied = self.known[session_id], self.root / f"{self.num_starts}"

        def on_crash() -> None:
            copied.mkdir(mode=0o700)
            for file in self.directory.glob(f"{DATABASE_NAME}*"):
                if not file.name.endswith("-shm"):
                    shutil.copy(file, copied)

        self.disk.on_crash, self.disk.num_left = on_crash, after
        self.answer(place, images, None)
        self.disk.num_left = None
        if not copied.exists():
            return  # it was over by then
        written = self.known[session_id]
        self.journal.abandon()
        self.directory = copied
        self.start()
        session = self.store._open[session_id]
        assert self.view(session).prompts in (before.prompts, written.prompts)
        self.learn(session)

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_was_told(self) -> None:
        self.store.check_integrity()
        for session_id, known in tuple(self.known.items()):
            if not self.store.is_open(session_id):
                assert known.until <= self.latest, "a session ended before its time"
                del self.known[session_id]
                continue
            session = self.store._open[session_id]
            assert self.view(session) == replace(known, until=session.expires_at)
            assert session.expires_at >= known.until
        assert self.store._open.keys() == self.known.keys()
        self.latest = self.clock.now

    @invariant()
    def the_journal_holds_what_the_table_holds(self) -> None:
        with closing(sqlite3.connect(self.directory / DATABASE_NAME)) as connection:
            written = {session.id: session for session in read_all(connection).sessions}
            rows = connection.execute("SELECT digest, content FROM images").fetchall()
        assert written.keys() == self.store._open.keys()
        for session_id, session in self.store._open.items():
            kept = written[session_id]
            assert self.view(kept) == replace(self.view(session), until=kept.expires_at)
            assert kept.expires_at >= self.known[session_id].until, "what was announced is kept"
        shown = {name for known in self.known.values() for name in known.images}
        assert dict(rows) == {name: name.encode() for name in shown}, "bytes have a user"

    def teardown(self) -> None:
        self.disk.heal()
        for session_id in list(self.known):
            self.attempt(self.store.end(session_id))
        self.clock.advance(10_000)
        self.run(self.store.sweep())
        self.clock.advance(10_000)
        self.run(self.store.sweep())
        check_journal_is_empty(self.directory)
        self.run(self.store.close())
        self.loop.close()
        shutil.rmtree(self.root)

    # --- within ---------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def attempt(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The outcome of a change; ``None``: it was refused, with a reason that holds."""
        try:
            return self.run(work)
        except InsufficientStorage:
            assert self.disk.is_full
        except TooManySessions:
            assert self.store.num_open >= SETTINGS.max_sessions
        except (SessionExpired, TooFewTurns):
            pass
        return None

    def pick(self, place: int) -> str | None:
        """One of the sessions whose time has not come."""
        now = self.clock.now
        alive = [key for key, one in self.store._open.items() if not one.is_over(now, in_use=False)]
        return alive[place % len(alive)] if alive else None

    def learn(self, session: Session) -> None:
        self.known[session.id] = self.view(session)

    def view(self, session: Session) -> _Known:
        return _Known(
            session.system,
            session.opening_system,
            tuple(image.digest for image in session.images),
            tuple(turn.prompt for turn in session.turns),
            session.expires_at,
        )


StoreMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStoreMachine = StoreMachine.TestCase
