"""Worlds one after another, each from a seed of its own; who fails says how to see it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tests.simulation.engines import EngineWorld
from tests.simulation.quiet import quiet_logs
from tests.simulation.trace import Trace
from tests.simulation.world import World


class Part(StrEnum):
    """What is simulated."""

    ENGINE = "engine"
    """The engine alone: scheduler and caches."""
    SERVICE = "service"
    """Sessions, journal and engine, with clients and faults."""


class _World(Protocol):
    trace: Trace
    num_steps: int

    def run(self, num_steps: int) -> None: ...


_MAKE: dict[Part, Callable[[int], _World]] = {Part.ENGINE: EngineWorld, Part.SERVICE: World}
STEPS_OF_A_WORLD = {Part.ENGINE: 3000, Part.SERVICE: 6000}


class Violation(AssertionError):
    """Something did not hold; the message tells the seed, what came before, and the command."""


@dataclass(frozen=True)
class Result:
    """Of one world."""

    num_steps: int
    digest: str
    """Of its trace: the same for the same seed and number of steps."""


def simulate(part: Part, seed: int, num_steps: int | None = None) -> Result:
    """Let one world live for about so many steps.

    Raises:
        Violation: something did not hold.
    """
    num_steps = STEPS_OF_A_WORLD[part] if num_steps is None else num_steps
    world = _MAKE[part](seed)
    with quiet_logs():
        try:
            world.run(num_steps)
        except Exception as exc:
            raise Violation(
                f"{type(exc).__name__}: {exc}\nafter {world.num_steps} steps, the last of them:\n"
                f"{world.trace.last()}\nTo see it again: {command(part, seed, num_steps)}"
            ) from exc
    return Result(world.num_steps, world.trace.digest)


def simulate_many(part: Part, seeds: Iterable[int], num_steps: int) -> int:
    """Let worlds live until they have had so many steps together; how many they had.

    Raises:
        Violation: something did not hold in one of them.
    """
    num_done = 0
    for seed in seeds:
        if num_done >= num_steps:
            break
        num_done += simulate(part, seed).num_steps
    return num_done


def command(part: Part, seed: int, num_steps: int) -> str:
    """What runs this world again."""
    python = os.path.relpath(sys.executable)
    return (
        f"{python} -m tests.simulation {part} --seed {seed} --steps {num_steps} "
        f"--steps-of-a-world {num_steps}"
    )
