"""Feeding one target, in a process of its own: what kills that is a finding like any other."""

from __future__ import annotations

import multiprocessing
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bench.fuzz.catalog import TARGETS
from bench.fuzz.target import Target
from bench.processes import name_of

ROUND = 1000
WARM_UP = 0.1
"""Part of the inputs after which growth is looked at."""
MAX_MORE_DESCRIPTORS = 16
"""Of connections that are just being closed."""
POLL_SECONDS = 0.5
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Weight:
    """Of a target's processes."""

    memory_mib: Mapping[str, float]
    """Name of the process -> its resident memory."""
    descriptors: int

    @classmethod
    def of(cls, target: Target[Any]) -> Weight:
        processes = target.processes()
        return cls(
            {name_of(each) or each.name(): each.memory_info().rss / _MIB for each in processes},
            sum(each.num_fds() for each in processes),
        )


@dataclass(slots=True)
class Fed:
    """What became of a target's inputs."""

    name: str
    num_inputs: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    """What became of them -> how many."""
    slowest_ms: float = 0.0
    """Of the processor, for one input."""
    memory_growth_mib: dict[str, float] = field(default_factory=dict)
    """Of each process, by its name."""
    descriptors_growth: int = 0
    findings: list[str] = field(default_factory=list)


def feed_apart(
    name: str,
    num_inputs: int,
    seed: int,
    *,
    start: int,
    url: str,
    on_progress: Callable[[int], None],
) -> Fed:
    """Feed a target in a process of its own.

    Args:
        start: the number of the first input.
        url: of the running service, for a target that needs one.
        on_progress: is told how many inputs there were so far.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_feed_to, args=(writer, name, num_inputs, seed), kwargs={"start": start, "url": url}
    )
    process.start()
    writer.close()
    fed = Fed(name)
    try:
        while True:
            fed = reader.recv()
            on_progress(fed.num_inputs)
    except EOFError:
        process.join()
    if process.exitcode:
        fed.findings.append(
            f"the process ended with {process.exitcode} at one of the {ROUND} inputs from "
            f"--seed {seed} --start {start + fed.num_inputs}"
        )
    return fed


def _feed_to(
    writer: Connection, name: str, num_inputs: int, seed: int, *, start: int, url: str
) -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as in the service
    feed(TARGETS[name](url), name, num_inputs, seed, start=start, on_progress=writer.send)
    writer.close()


def feed(
    target: Target[Any],
    name: str,
    num_inputs: int,
    seed: int,
    *,
    start: int = 0,
    on_progress: Callable[[Fed], object] = lambda _: None,
) -> Fed:
    """Feed a target in this process, until it has had ``num_inputs`` or there is a finding."""
    fed, outcomes = Fed(name), Counter[str]()
    begun, warm = time.monotonic(), None

    def check(one: Any) -> None:
        fed.num_inputs += 1
        started = time.process_time()
        outcomes[target.check(one)] += 1
        seconds = time.process_time() - started
        fed.slowest_ms = max(fed.slowest_ms, round(seconds * 1000, 1))
        assert seconds <= target.max_seconds, f"it took {seconds:.1f} s of the processor"

    for first in range(start, start + num_inputs, ROUND):
        try:
            target.feed(seed, range(first, min(first + ROUND, start + num_inputs)), check)
        except (Exception, BaseExceptionGroup):  # noqa: BLE001 - it is what was looked for
            number = start + fed.num_inputs - 1
            place = f"--seed {seed} --start {number} (in a round from {first})"
            fed.findings.append(f"{place}: {traceback.format_exc()}")
            break
        if warm is None and fed.num_inputs >= WARM_UP * num_inputs:
            warm = Weight.of(target)
        fed.seconds = round(time.monotonic() - begun, 1)
        fed.outcomes = dict(outcomes.most_common())
        on_progress(fed)
    _finish(target, fed, warm)
    on_progress(fed)
    return fed


def _finish(target: Target[Any], fed: Fed, warm: Weight | None) -> None:
    if fed.findings or warm is None:
        return
    try:
        target.finish()
    except Exception:  # noqa: BLE001 - as above
        fed.findings.append(traceback.format_exc())
    end = Weight.of(target)
    fed.memory_growth_mib = {
        name: round(memory - warm.memory_mib.get(name, 0.0), 1)
        for name, memory in end.memory_mib.items()
    }
    fed.descriptors_growth = end.descriptors - warm.descriptors
    if sum(fed.memory_growth_mib.values()) > target.max_growth_mib:
        fed.findings.append(f"memory grew, MiB: {fed.memory_growth_mib}")
    if fed.descriptors_growth > MAX_MORE_DESCRIPTORS:
        fed.findings.append(f"there are {fed.descriptors_growth} more open descriptors")
