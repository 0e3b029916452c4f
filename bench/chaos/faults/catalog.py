"""All faults, and those that strike two at a time."""

from __future__ import annotations

from bench.chaos.faults.base import HOUR, Fault
from bench.chaos.faults.pairs import Both
from bench.chaos.faults.processes import (
    HANGS,
    KILL_EDGE,
    KILL_FRONTEND,
    KILL_WORKER,
    FillDevice,
    KillEngine,
    KillSupervisor,
    Stop,
)
from bench.chaos.faults.storage import FillDisk, RestartOnFullDisk, SlowJournal
from bench.chaos.faults.surroundings import BREAK_OFF_UPLOADS, LEAVE_STREAMS, JumpClock
from bench.chaos.stack import Role

FAULTS: tuple[Fault, ...] = (
    KillEngine(),
    KILL_WORKER,
    KILL_FRONTEND,
    KILL_EDGE,
    KillSupervisor(),
    *(Stop(role) for role in Role),
    *HANGS,
    FillDisk(),
    SlowJournal(),
    LEAVE_STREAMS,
    BREAK_OFF_UPLOADS,
    FillDevice(),
    JumpClock(HOUR),
    JumpClock(-HOUR),
)

PAIRS: tuple[Fault, ...] = (
    RestartOnFullDisk(),
    Both(KillEngine(), KILL_EDGE),
    Both(KillEngine(), SlowJournal()),
    Both(Stop(Role.ENGINE), LEAVE_STREAMS),
)
