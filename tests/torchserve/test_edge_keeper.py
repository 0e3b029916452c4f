"""HAProxy that dies as soon as it listens is not started again and again without a pause."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from vlm_sessions.serve.edge_keeper import EdgeKeeper
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.stopping import Stopping

Process = asyncio.subprocess.Process
OFTEN = 5
"""More starts than may fail in a row."""


@dataclass
class ShortLived:
    """A process in HAProxy's place that is killed once it has been seen to listen."""

    num_starts: int = 0
    announced: list[int] = field(default_factory=list)
    started_often: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> Process:
        self.num_starts += 1
        if self.num_starts == OFTEN:
            self.started_often.set()
        self._process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        return self._process

    async def wait_listening(self) -> bool:
        asyncio.get_running_loop().call_soon(self._process.kill)
        return True

    async def ping(self, seconds: float) -> int | None:
        return 200

    def keeper(self, patience: Patience) -> EdgeKeeper:
        return EdgeKeeper(
            self.start,
            self.wait_listening,
            self.ping,
            log="haproxy.log",
            say=lambda line: None,
            announce=lambda: self.announced.append(self.num_starts),
            stopping=Stopping(1.0),
            patience=patience,
        )


@dataclass(frozen=True)
class Counting(Patience):
    """Waits for nothing, and tells how often it was asked how long to wait, and after how many."""

    asked: list[int] = field(default_factory=list)

    def before_start(self, num_failures: int) -> float:
        self.asked.append(num_failures)
        return 0.0


def wanted() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_each_restart_in_a_row_waits_longer_and_the_last_ends_the_service() -> None:
    haproxy, patience = ShortLived(), Counting(max_failed_starts=3)

    with pytest.raises(CannotServe, match=r"failed 3 times in a row.* See haproxy\.log"):
        await haproxy.keeper(patience).keep(wanted())

    assert patience.asked == [0, 1, 2]
    assert haproxy.announced == [1]


async def test_one_that_has_lived_for_a_while_begins_the_row_anew() -> None:
    haproxy, patience = ShortLived(), Counting(max_failed_starts=3, short_life=0.0)

    keeping = asyncio.create_task(haproxy.keeper(patience).keep(wanted()))
    await haproxy.started_often.wait()
    keeping.cancel()
    await asyncio.wait([keeping])

    assert set(patience.asked) == {0}
