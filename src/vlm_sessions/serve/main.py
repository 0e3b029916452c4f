"""The way in: check what is needed, pack the model, supervise; every failure is one clear line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, frontend
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.keys import with_keys_found
from vlm_sessions.serve.model import ARTIFACTS, with_model_found
from vlm_sessions.serve.packaging import find_store
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.supervisor import Supervisor, Tools


def find_tools() -> Tools:
    """Find Java, TorchServe and HAProxy.

    Raises:
        CannotServe: one is missing; the message says how to get it.
    """
    return Tools(
        java=frontend.find_java(os.environ),
        torchserve_home=frontend.torchserve_home(),
        haproxy=edge.find_haproxy(os.environ),
    )


def run(
    settings: Settings,
    store: Path | None = None,
    *,
    artifacts: Path = ARTIFACTS,
    patience: Patience | None = None,
) -> int:
    """Serve in the foreground until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        settings: of everything.
        store: a model store that holds a packed ``llava``. Default: what the settings name, else
            the checkout's, packed anew when its sources have changed.
        artifacts: where SageMaker puts a model.
        patience: with parts that fail or hang; tests have less of it.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not serve, or no longer could.
    """
    try:
        with _signals_end_the_start():
            tools = find_tools()
            edge.check_port(settings.host, settings.port)
            settings = with_keys_found(settings)
            store = store or find_store(settings)
            settings = with_model_found(settings, store, artifacts)
            supervisor = Supervisor(
                settings, store.absolute(), tools, dict(os.environ), patience or Patience()
            )
            asyncio.run(supervisor.run())
    except CannotServe as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except _StopAsked:
        pass
    return 0


class _StopAsked(BaseException):
    """A signal came before the supervisor listened. No ``Exception``: nothing may swallow it."""


@contextmanager
def _signals_end_the_start() -> Iterator[None]:
    """Until the supervisor listens, a signal ends us in order: PID 1 would not even hear it."""

    def end(number: int, _frame: object) -> None:
        raise _StopAsked(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
