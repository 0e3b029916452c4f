"""What befalls a service: its engine, its disk, its clock, itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.simulation.child import Device, SimulatedChild
from tests.simulation.clocks import WallClock
from tests.simulation.journals import Disk
from tests.simulation.trace import Trace

JUMPS = (-86_400.0, -90.0, -5.0, 3.0, 25.0, 70.0, 400.0, 86_400.0)


class Faults:
    """Strikes at random moments, each time with one fault.

    Args:
        kill_service: ends the service where it is, as SIGKILL does.
        stop_service: has it end in good order, and start again.
        drop_caches: tells the engine to.
    """

    def __init__(
        self,
        random: Random,
        device: Device,
        disk: Disk,
        wall: WallClock,
        trace: Trace,
        *,
        newest_child: Callable[[], SimulatedChild | None],
        kill_service: Callable[[], None],
        stop_service: Callable[[], None],
        drop_caches: Callable[[], Awaitable[None]],
    ) -> None:
        self.struck: dict[str, int] = {}
        """Name of a fault -> how often it struck"""
        self._random = random
        self._device = device
        self._disk = disk
        self._wall = wall
        self._trace = trace
        self._newest_child = newest_child
        self._kill_service = kill_service
        self._stop_service = stop_service
        self._drop_caches = drop_caches
        self._pause_seconds = random.choice([0.3, 1.0, 5.0])
        self._weights: dict[Callable[[], Awaitable[None]], float] = {
            fault: weight * random.choice([0.0, 1.0, 1.0, 3.0])
            for fault, weight in {
                self._engine_dies: 5.0,
                self._engine_freezes: 2.0,
                self._device_fails: 3.0,
                self._engine_does_not_load: 1.0,
                self._disk_is_full: 3.0,
                self._disk_is_flaky: 3.0,
                self._disk_is_slow: 2.0,
                self._clock_is_set: 3.0,
                self._service_dies: 1.0,
                self._service_dies_while_it_writes: 1.5,
                self._service_restarts: 0.7,
                self._caches_are_dropped: 1.0,
            }.items()
        }

    async def strike(self) -> None:
        """One fault after another, until cancelled."""
        if not any(self._weights.values()):
            return
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._pause_seconds))
            [fault] = self._random.choices(list(self._weights), list(self._weights.values()))
            name = fault.__name__.strip("_")
            self.struck[name] = self.struck.get(name, 0) + 1
            self._trace.add(asyncio.get_running_loop().time(), name)
            await fault()

    def heal(self) -> None:
        """From now on all goes well."""
        self._disk.heal()
        self._device.failure_rate = self._device.load_failure_rate = 0.0

    async def _engine_dies(self) -> None:
        child = self._newest_child()
        if child is not None:
            child.die()

    async def _engine_freezes(self) -> None:
        child = self._newest_child()
        if child is not None:
            child.freeze(self._random.choice([0.5, 40.0, 100.0]))

    async def _device_fails(self) -> None:
        self._device.failure_rate = self._random.choice([0.02, 0.2, 1.0])
        await self._a_while()
        self._device.failure_rate = 0.0

    async def _engine_does_not_load(self) -> None:
        self._device.load_failure_rate = 0.8
        await self._engine_dies()
        await self._a_while()
        self._device.load_failure_rate = 0.0

    async def _disk_is_full(self) -> None:
        self._disk.is_full = True
        await self._a_while()
        self._disk.is_full = False

    async def _disk_is_flaky(self) -> None:
        self._disk.failure_rate = self._random.choice([0.02, 0.1, 0.5])
        await self._a_while()
        self._disk.failure_rate = 0.0

    async def _disk_is_slow(self) -> None:
        self._disk.write_seconds = self._random.choice([0.2, 3.0])
        await self._a_while()
        self._disk.write_seconds = 0.01

    async def _clock_is_set(self) -> None:
        self._wall.jump(self._random.choice(JUMPS))

    async def _service_dies(self) -> None:
        self._kill_service()

    async def _service_dies_while_it_writes(self) -> None:
        self._disk.num_left = self._random.randrange(12)

    async def _service_restarts(self) -> None:
        self._stop_service()

    async def _caches_are_dropped(self) -> None:
        await self._drop_caches()

    async def _a_while(self) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 3))
