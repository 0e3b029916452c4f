"""One run: learn what is right, take a baseline, break and check, close all, compare.

start ─ learn ─ calm traffic ─ close all ─ baseline ─┬─ traffic ─ fault ─ pause ─ check ─┬─ end
                                                     └───────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.chaos.disk import small_disk
from bench.chaos.faults.base import HOUR, Fault, Scene
from bench.chaos.faults.catalog import FAULTS, PAIRS
from bench.chaos.leaks import Footprint, settled
from bench.chaos.plan import Plan, make_plan
from bench.chaos.reference import Play, learn
from bench.chaos.report import Struck
from bench.chaos.scripts import write_scripts
from bench.chaos.stack import PROMPT_SECONDS, NotRecovered, Stack
from bench.chaos.talk import Talk
from bench.chaos.tally import Tally
from bench.chaos.traffic import FAILURES, Traffic
from bench.chaos.weather import Weather
from vlm_sessions.serve.edge import SERVER_MARGIN_SECONDS

SLACK_SECONDS = 5.0
"""Beyond the service's own deadlines, for a reply to arrive."""
LIMIT_SECONDS = PROMPT_SECONDS + SERVER_MARGIN_SECONDS + SLACK_SECONDS
IDLE_SECONDS = PROMPT_SECONDS + SLACK_SECONDS
"""For the service to end every prompt that it has, once no client sends more."""
CALM_SECONDS = 3.0
RECOVERED_SECONDS = 10.0
"""For what promises nothing about its recovery: then it counts as not recovered."""

OVERTIME = 1.5
"""On a machine on which everything takes longer, a run may take this much longer than planned."""

Tell = Callable[[str], None]
"""Says what is going on."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How large a run is; ``patience`` multiplies the limits of recovery."""

    seconds: float
    seed: int
    num_clients: int
    patience: float = 1.0

    @property
    def num_scripts(self) -> int:
        return 8 if self.seconds < 120 else 24

    @property
    def num_turns(self) -> int:
        return 5 if self.seconds < 120 else 8


@dataclass(frozen=True, slots=True)
class Found:
    """All that a run has seen."""

    tally: Tally
    struck: tuple[Struck, ...]
    not_reached: tuple[str, ...]
    baseline: Footprint
    end: Footprint | None
    """``None``: the service did not come back from its last fault."""


async def run(effort: Effort, tell: Tell) -> Found:
    """Start a service, do everything, stop it.

    Raises:
        ServiceFailed: it does not start.
        Refused, Broke, Hung, Garbled: it does not even work while undisturbed.
        NotRecovered: it does not settle while undisturbed.
    """
    with tempfile.TemporaryDirectory(prefix="vlm-chaos-") as work:
        folder = Path(work)
        with small_disk(folder / "state") as has_small_disk:
            stack = Stack(folder, folder / "state")
            tell("packing and starting the service")
            await asyncio.to_thread(stack.pack)
            await stack.start()
            try:
                return await _Run(effort, stack, tell, has_small_disk=has_small_disk).run()
            finally:
                await stack.stop()


class _Run:
    """The parts of one run, while its service is up."""

    def __init__(self, effort: Effort, stack: Stack, tell: Tell, *, has_small_disk: bool) -> None:
        self._effort = effort
        self._stack = stack
        self._tell = tell
        self._has_small_disk = has_small_disk
        self._tally = Tally()
        self._weather = Weather()
        self._struck: list[Struck] = []

    async def run(self) -> Found:
        plan = make_plan(FAULTS, PAIRS, self._effort.seconds, self._effort.seed)
        plays = await self._learn()
        self._tell("calm traffic, for a baseline")
        async with self._traffic(plays) as traffic:
            await asyncio.sleep(CALM_SECONDS)
            await self._end(traffic)
        baseline, problems = await self._settled(None)
        self._tally.blame(*(f"before any fault: {each}" for each in problems))
        not_reached: tuple[str, ...] = ()
        end: Footprint | None = None
        try:
            async with self._traffic(plays) as traffic:
                not_reached = await self._break(plan, traffic)
                self._tell("closing all sessions")
                await self._end(traffic)
            end, problems = await self._settled(baseline)
            self._tally.blame(*(f"in the end: {each}" for each in problems))
        except NotRecovered as exc:
            self._tally.blame(f"the run ends here: {exc}")
        return Found(self._tally, tuple(self._struck), not_reached, baseline, end)

    async def _settled(self, baseline: Footprint | None) -> tuple[Footprint, list[str]]:
        """See ``settled``; closed sessions, which are remembered for an hour, are forgotten now."""
        self._stack.clock.set(3 * HOUR)
        try:
            return await settled(self._stack, baseline)
        finally:
            self._stack.clock.set(0)

    async def _learn(self) -> tuple[Play, ...]:
        effort = self._effort
        plays: list[Play] = []
        talk = Talk(self._stack.url, LIMIT_SECONDS)
        for script in write_scripts(effort.seed, effort.num_scripts, effort.num_turns):
            self._tell(f"learning what is right: {len(plays)} of {effort.num_scripts} scripts")
            plays.append(await learn(talk, script))
        await talk.aclose()
        return tuple(plays)

    @asynccontextmanager
    async def _traffic(self, plays: tuple[Play, ...]) -> AsyncIterator[Traffic]:
        """Clients of the service, working."""
        talk = Talk(self._stack.url, LIMIT_SECONDS)
        traffic = Traffic(
            talk,
            plays,
            num_clients=self._effort.num_clients,
            seed=self._effort.seed,
            weather=self._weather,
            tally=self._tally,
        )
        async with traffic.running():
            yield traffic
        await talk.aclose()

    async def _break(self, plan: Plan, traffic: Traffic) -> tuple[str, ...]:
        """Strike blow after blow; gives the names of the faults that time was not enough for."""
        scene = Scene(
            self._stack,
            traffic.manners,
            Random(f"faults {self._effort.seed}"),
            plan.holds,
            self._has_small_disk,
        )
        deadline = time.monotonic() + self._effort.seconds * OVERTIME
        for number, blow in enumerate(plan.blows):
            if time.monotonic() > deadline:
                return tuple(blow.fault.name for blow in plan.blows[number:])
            await asyncio.sleep(blow.calm)
            self._tell(
                f"{number + 1} of {len(plan.blows)}: {blow.fault.name}; "
                f"{self._tally.num_requests} requests, {len(self._tally.violations)} violations"
            )
            await self._strike(blow.fault, scene)
            await self._check(traffic, f"after {blow.fault.name}")
            traffic.resume()
        await asyncio.sleep(plan.blows[-1].calm if plan.blows else 0)
        return ()

    async def _strike(self, fault: Fault, scene: Scene) -> None:
        num_before = self._tally.num_requests
        with self._weather.bad(fault.allowed):
            try:
                recovery = await fault.strike(scene)
            except NotRecovered as exc:
                raise NotRecovered(f"{fault.name}: {exc}") from exc
        self._struck.append(Struck.of(fault, recovery, self._tally.num_requests - num_before))
        limit = RECOVERED_SECONDS if fault.limit is None else fault.limit
        if recovery.judged_seconds > limit * self._effort.patience:
            self._tally.blame(
                f"{fault.name}: back after {recovery.judged_seconds:.1f} s beyond any load, "
                f"the limit is {limit:g} s"
            )

    async def _check(self, traffic: Traffic, when: str) -> None:
        """Let everything end, and compare every session with what it must hold."""
        await traffic.pause()
        num_before = len(self._tally.violations)
        if not await self._stack.wait_idle(IDLE_SECONDS):
            self._tally.blame("prompts run on although no client waits for any")
        await traffic.check()
        self._tally.violations[num_before:] = [
            f"{when}: {violation}" for violation in self._tally.violations[num_before:]
        ]

    async def _end(self, traffic: Traffic) -> None:
        """Close every session, also those whose ids nobody was told."""
        await self._check(traffic, "in the end")
        known = {each.session_id for each in traffic.conversations}
        await traffic.close_all()
        (verdict,) = self._stack.query("PRAGMA integrity_check")
        if verdict != ("ok",):
            self._tally.blame(f"the journal is broken: {verdict[0]}")
        left = {row[0] for row in self._stack.query("SELECT id FROM sessions WHERE state = 'open'")}
        if left & known:
            self._tally.blame(f"closed sessions are open in the journal: {left & known}")
        if len(left - known) > self._tally.num_unknown_opens:
            self._tally.blame(
                f"{len(left - known)} sessions are open that nobody was told of, and only "
                f"{self._tally.num_unknown_opens} openings ended without a word"
            )
        talk = Talk(self._stack.url, LIMIT_SECONDS)
        for session_id in left - known:
            try:
                await talk.close(session_id)
            except FAILURES as exc:
                self._tally.blame(f"session {session_id} does not close: {exc}")
        await talk.aclose()
