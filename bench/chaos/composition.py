"""The product over two parts that can be made to fail: a clock that jumps, a device without room.

Packed by ``stack`` in place of the product's own handler; everything else is the product's. Also
the engine's child process: ``python -m bench.chaos.composition engine MODEL NAME FD``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from vlm_sessions import build
from vlm_sessions.config import Settings
from vlm_sessions.engine.interface import Runner
from vlm_sessions.engine.types import EngineInfo, Plan, StepResult

CLOCK_VARIABLE = "CHAOS_CLOCK"
"""Names the file that says how many seconds the service's clock is ahead."""
OUT_OF_MEMORY = signal.SIGUSR1
"""Told to the engine's process: the next step finds no memory on the device."""
ENGINE_COMMAND = (sys.executable, "-m", "bench.chaos.composition", "engine")


class JumpingClock:
    """The machine's clock, ahead or behind by what a file says; no file: right."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @classmethod
    def of_environment(cls) -> JumpingClock:
        return cls(Path(os.environ[CLOCK_VARIABLE]))

    def set(self, seconds_ahead: float) -> None:
        """Jump; every process that reads this clock jumps at once."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(str(seconds_ahead))
        draft.replace(self._file)  # whoever reads finds the old figure or the new one

    def __call__(self) -> float:
        try:
            return time.time() + float(self._file.read_text())
        except FileNotFoundError:
            return time.time()


class FailingRunner:
    """A runner whose device runs out of memory when its process is told so by a signal.

    To be made in the main thread, which hears signals.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._fails = False
        signal.signal(OUT_OF_MEMORY, self._hear)

    @property
    def info(self) -> EngineInfo:
        return self._runner.info

    @property
    def feature_bytes_per_token(self) -> int:
        return self._runner.feature_bytes_per_token

    def execute(self, plan: Plan) -> StepResult:
        """Do one step's work, or fail as torch does where a device is full."""
        if self._fails:
            from torch import OutOfMemoryError  # noqa: PLC0415 - only the engine's process has it

            raise OutOfMemoryError("out of memory: injected by bench.chaos")
        return self._runner.execute(plan)

    def _hear(self, _number: int, _frame: object) -> None:
        self._fails = True


def compose(settings: Settings, checkpoint: Path) -> build.App:
    """The worker's side."""
    return build.build(
        settings,
        checkpoint,
        engine_command=ENGINE_COMMAND,
        clock=JumpingClock.of_environment(),
    )


def main(arguments: list[str]) -> None:
    """The engine's side."""
    _, model, name, fd = arguments
    settings = Settings.from_env(os.environ)
    clock = JumpingClock.of_environment()
    build.run_engine(settings, model, name, int(fd), around=FailingRunner, wall=clock)


if __name__ == "__main__":
    main(sys.argv[1:])
