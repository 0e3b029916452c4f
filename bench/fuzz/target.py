"""A target: what is fed, and what must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil

T = TypeVar("T")


def _this_process() -> Sequence[psutil.Process]:
    return [psutil.Process()]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Target(Generic[T]):
    """``feed`` gives the inputs of a seed and of a range of numbers to what it is told.

    ``check`` says in a word or two what became of an input: that it was accepted, or the code of
    the error that refused it. Whatever it raises is a finding.
    """

    feed: Callable[[int, range, Callable[[T], None]], None]
    check: Callable[[T], str]
    processes: Callable[[], Sequence[psutil.Process]] = _this_process
    """Those that must not grow."""
    finish: Callable[[], None] = _nothing
    """What must hold in the end; it puts away what ``check`` left."""
    max_seconds: float = 5.0
    """Of this process's processor, for one input: none needs a tenth, a bomb minutes."""
    max_growth_mib: float = 64.0
    """Of the memory of all processes, from when they are warm to the end."""
