"""All faults, and those that strike two at a time."""

from __future__ import annotations

from bench.chaos.faults.base import HOUR, Fault
from bench.chaos.faults.pairs import Both
from bench.chaos.faults.processes import (
    HANGS,
    KILL_FRONTEND,
    KILL_WORKER,
    FillDevice,
    KillEdge,
    KillEngine,
    KillSupervisor,
    Stop,
)
from bench.chaos.faults.storage import FillDisk, RestartOnFullDisk, SlowJournal
from bench.chaos.faults.surroundings import BreakOffUploads, JumpClock, LeaveStreams
from bench.chaos.stack import Role

FAULTS: tuple[Fault, ...] = (
    KillEngine(),
    KILL_WORKER,
    KILL_FRONTEND,
    KillEdge(),
    KillSupervisor(),
    *(Stop(role) for role in Role),
    *HANGS,
    FillDisk(),
    SlowJournal(),
    LeaveStreams(),
    BreakOffUploads(),
    FillDevice(),
    JumpClock(HOUR),
    JumpClock(-HOUR),
)

PAIRS: tuple[Fault, ...] = (
    RestartOnFullDisk(),
    Both(KillEngine(), KillEdge()),
    Both(KillEngine(), SlowJournal()),
    Both(Stop(Role.ENGINE), LeaveStreams()),
)
