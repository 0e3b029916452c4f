"""The way in of ``vlm-sessions router`` and ``vlm-sessions cluster``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from vlm_sessions.cluster.cluster import Cluster
from vlm_sessions.cluster.options import ClusterOptions, RouterOptions
from vlm_sessions.cluster.replicas import SERVE
from vlm_sessions.cluster.router import DRAIN_SECONDS, Router
from vlm_sessions.serve import CannotServe, edge, find_tools
from vlm_sessions.serve.children import Children
from vlm_sessions.serve.console import Console
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.serve.stopping import Stopping
from vlm_sessions.serve.tasks import background, first_of


def run_router(options: RouterOptions) -> int:
    """Route in the foreground until SIGTERM or SIGINT. Call it in the main thread.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not start.
    """
    return _run(lambda: _route(options))


def run_cluster(options: ClusterOptions, replica_command: Sequence[str] = SERVE) -> int:
    """Run replicas and routers in the foreground until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not start.
    """
    return _run(lambda: _cluster(options, replica_command))


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        asyncio.run(main())
    except CannotServe as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:  # before signals were heard
        pass
    return 0


async def _route(options: RouterOptions) -> None:
    haproxy = edge.find_haproxy(os.environ)
    stopping, children = Stopping(DRAIN_SECONDS), Children()
    with stopping.signals_heard(), children.orphans_reaped():
        async with _console() as console:
            router = Router(options, haproxy, children, console.say, stopping.hurried)
            try:
                router.prepare()
                async with background(router.process.keep()) as keeping:
                    await first_of(stopping.asked.wait(), _announce(router, console), keeping)
                    await first_of(stopping.asked.wait(), keeping)
                    console.say("Stopping.")
                    await router.process.stop()
            finally:
                router.remove()


async def _announce(router: Router, console: Console) -> None:
    await router.wait_listening()
    console.say(f"Router at {router.url}; its admin socket is {router.admin_socket}")


async def _cluster(options: ClusterOptions, replica_command: Sequence[str]) -> None:
    tools = find_tools()
    stopping = Stopping(options.settings.drain_seconds)
    with stopping.signals_heard():
        async with _console() as console:
            cluster = Cluster(
                options,
                tools.haproxy,
                os.environ,
                console=console,
                stopping=stopping,
                command=replica_command,
            )
            await cluster.run()


@asynccontextmanager
async def _console() -> AsyncIterator[Console]:
    """Lines go out in order, and a terminal that stands still holds nothing up."""
    run_dir = RunDir.make()
    console = Console(run_dir.log_socket, lambda _pid: None)
    try:
        await console.start()
        yield console
    finally:
        await console.close()
        run_dir.remove()
