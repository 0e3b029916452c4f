"""A whole service in simulated time: its clients, its faults, its lives one after another.

    Clients ── SessionService ── SessionStore ── Journal ── SQLite          all the product's, but
       │            │                              └─ its thread, its disk         ┐
       │            └─ EngineProcess ── SpawnedEngine ── Engine ── caches          │ for these,
       │                                     └─ its process ─┘    └─ its device    │ which are
       └─ Witness, Oracle: what must be                                            │ simulated
                                                   loop, clocks, chance, faults    ┘

All that happens follows from one seed. A life ends when the service is killed or restarted; the
next begins with what the journal's files were at that moment.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import cast

from tests.simulation.baseline import check_baseline, check_journal_is_empty
from tests.simulation.child import FIRST_PID, Device, SimulatedChild
from tests.simulation.clients import Clients
from tests.simulation.clocks import WallClock
from tests.simulation.desk import Desk, raise_failure
from tests.simulation.entropy import seeded_entropy
from tests.simulation.expected import Oracle
from tests.simulation.faults import Faults
from tests.simulation.graves import Graves
from tests.simulation.journals import Disk, SimulatedJournal
from tests.simulation.loop import SimulatedLoop, until
from tests.simulation.pictures import SimulatedProcessor
from tests.simulation.runner import EngineShape
from tests.simulation.scene import Connection, Scene, draw_settings
from tests.simulation.trace import Trace
from tests.simulation.witness import Witness
from vlm_sessions.engine.process import EngineProcess
from vlm_sessions.engine.spawned import SpawnedEngine
from vlm_sessions.errors import EngineUnavailable, VlmError
from vlm_sessions.service import SessionService

STOP_SECONDS = 120.0
SWEEP_SECONDS = 10
REST_SECONDS = 600.0
FOREVER = 10 * 86_400.0


class _Killed(Exception):
    """The service was killed."""


class World:
    """One service on one machine, and all who use it."""

    def __init__(self, seed: int | str) -> None:
        self.trace = Trace()
        self.num_steps = 0
        """Callbacks of the event loop that were run, each followed by a check of everything."""
        self.num_lives = 0
        self._random = random = Random(f"world {seed}")
        self.shape = EngineShape.drawn(random)
        self._wall = WallClock(self._time)
        self._device = Device(self.shape)
        self._disk = Disk(random)
        self._disk.on_crash = self._kill
        self._shuffle = random.choice([0.0, 0.1, 0.5])
        self._root = Path(tempfile.mkdtemp(prefix="simulation-"))
        self._directory = self._root / "0"
        self._settings = draw_settings(random, self._directory)
        self._loop: SimulatedLoop | None = None
        self._graves = Graves()
        self._children: list[SimulatedChild] = []
        self._engine: EngineProcess | None = None
        self._service: SessionService | None = None
        """While there is one whose sessions are to be watched."""
        self._is_killed = self._is_stopping = self._is_at_rest = False
        self._max_steps = 0
        scene = Scene(random, self.shape, self._settings, self._wall, self.trace)
        self._pictures = scene.pictures
        oracle = Oracle(scene)
        self.witness = Witness(scene, oracle)
        self.desk = Desk(scene, self.witness)
        self.clients = Clients(scene, self.witness, oracle, self.desk)
        self.faults = Faults(
            random,
            self._device,
            self._disk,
            self._wall,
            self.trace,
            newest_child=self._newest_child,
            kill_service=self._kill,
            stop_service=self._stop,
            drop_caches=self._drop_caches,
        )

    def run(self, num_steps: int) -> None:
        """Live for about so many steps, then let everything come to rest and see what is left.

        Raises:
            AssertionError: something does not hold.
        """
        self._max_steps = num_steps
        gc_was_enabled = gc.isenabled()
        gc.disable()  # what it finds, and when, depends on more than the seed
        try:
            with seeded_entropy(self._random):
                while self.num_steps < num_steps:
                    self._live(is_last=False)
                self._live(is_last=True)
            assert self._is_at_rest
        finally:
            self.trace.add(self._time(), f"{self.num_steps} steps")
            self.desk.connect(None)
            self._engine = None
            self._children.clear()
            self._graves.free()
            shutil.rmtree(self._root)
            if gc_was_enabled:
                gc.enable()

    # --- one life -------------------------------------------------------------------------------

    def _live(self, *, is_last: bool) -> None:
        self.num_lives += 1
        self._is_killed = self._is_stopping = False
        loop = SimulatedLoop(
            self._random,
            start=self._time(),
            shuffle=self._shuffle,
            after_step=self._after_step,
        )
        self._loop = loop
        journal = SimulatedJournal(self._directory, loop, self._random, self._disk)
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(journal, is_last=is_last))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except _Killed:
            self.trace.add(self._time(), "the service was killed")
        finally:
            asyncio.set_event_loop(None)
            self._service = None
            journal.abandon()
            self._graves.bury(loop)

    async def _serve(self, journal: SimulatedJournal, *, is_last: bool) -> None:
        if is_last:
            self.faults.heal()
        engine = self._engine = EngineProcess(["engine"], spawn=self._spawn)
        service = SessionService(
            self._settings, engine, SimulatedProcessor(), clock=self._wall, journal=journal
        )
        try:
            await service.start()
        except VlmError as error:  # the whole is started again by its supervisor
            if not isinstance(error, EngineUnavailable) and not self._disk.failure_rate:
                raise
            self.trace.add(self._time(), f"not started: {error.code}")
            await service.close()
            return
        # What was being asked of the life before had its reply, or is known by now.
        self._note(self.witness.look(service._store._open, restarted=True))
        self.clients.give_up()
        self._service = service
        self.desk.connect(Connection(service, self._directory, asyncio.get_running_loop()))
        if is_last:
            await self._come_to_rest(service)
            return
        beside = [
            asyncio.create_task(self.faults.strike()),
            asyncio.create_task(self._see_that_all_is_swept(service)),
        ]
        for task in beside:
            task.add_done_callback(raise_failure)
        driving = asyncio.create_task(self.clients.drive(self._wants_more))
        await until(lambda: not self._wants_more())
        for task in beside:
            task.cancel()
        await driving
        async with asyncio.timeout(STOP_SECONDS):
            await service.close()
        async with asyncio.timeout(REST_SECONDS):
            await self.clients.wait_for_all()

    async def _come_to_rest(self, service: SessionService) -> None:
        """All goes well from now on: everybody is answered, everything comes back to nothing."""
        async with asyncio.timeout(REST_SECONDS):
            for session_id in list(self.witness.sessions):
                self.clients.ask_in(session_id)
            await self.clients.wait_for_all()
            for session_id in list(self.witness.sessions):
                self.clients.close(session_id)
            await self.clients.wait_for_all()
            await until(lambda: not self.witness.sessions)  # one may have expired instead
            child = self._newest_child()
            assert child is not None
            await until(lambda: child.is_idle)
        check_baseline(service, child, loop=asyncio.get_running_loop())
        self._wall.jump(FOREVER)
        await asyncio.sleep(3.0)  # for the sweeper
        check_journal_is_empty(self._directory)
        await service.close()
        self._is_at_rest = True

    async def _see_that_all_is_swept(self, service: SessionService) -> None:
        """Whose time has come is ended soon, unless the disk refuses just now."""
        over: dict[str, int] = {}
        while True:
            await asyncio.sleep(1.0)
            is_well = self._disk.is_well
            now, users = self._wall(), service._store._num_users
            over = {
                session.id: over.get(session.id, 0) + 1
                for session in self.witness.sessions.values()
                if is_well and session.is_over(now, in_use=session.id in users)
            }
            assert all(seconds < SWEEP_SECONDS for seconds in over.values()), "it is never swept"

    def _wants_more(self) -> bool:
        assert self._loop is not None
        num_steps = self.num_steps
        return not self._is_stopping and num_steps < self._max_steps

    # --- what happens to it ---------------------------------------------------------------------

    def _after_step(self) -> None:
        self.num_steps += 1
        if self._is_killed:
            raise _Killed
        if self._service is not None:
            self._service.check_integrity()
            self._note(self.witness.look(self._service._store._open))

    def _kill(self) -> None:
        """End the service where it is; of its files, what is on the disk now is kept."""
        if self._is_killed:
            return
        self._is_killed = True
        successor = self._root / str(self.num_lives)
        successor.mkdir(mode=0o700)
        for file in self._directory.glob("journal.sqlite3*"):
            if not file.name.endswith("-shm"):  # an index of the log, made anew
                shutil.copy(file, successor)
        self._directory = successor

    def _stop(self) -> None:
        self._is_stopping = True

    async def _drop_caches(self) -> None:
        if self._engine is not None:
            await self._engine.clear()

    async def _spawn(self, command: Sequence[str], env: Mapping[str, str] | None) -> SpawnedEngine:
        await asyncio.sleep(self._random.uniform(0, 0.05))
        assert self._loop is not None
        child = SimulatedChild(
            FIRST_PID + len(self._children),
            self._loop,
            self._random,
            self._device,
            wall=self._wall,
            trace=self.trace,
            pictures=self._pictures,
            is_wanted=lambda turn_id: self._engine is None or turn_id in self._engine._turns,
        )
        self._children.append(child)
        return SpawnedEngine(
            cast(asyncio.subprocess.Process, child),
            child.reader,
            cast(asyncio.StreamWriter, child),
        )

    def _newest_child(self) -> SimulatedChild | None:
        return self._children[-1] if self._children else None

    def _time(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _note(self, news: Sequence[str]) -> None:
        for each in news:
            self.trace.add(self._time(), each)
