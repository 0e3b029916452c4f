"""Replicas behind routers on one machine.

start    routers and replicas at once; ready when every router sees every replica ready
a death  the process is started again, a replica on the state that it left
SIGHUP   a rolling update: one replica after the other drains, ends, starts and becomes ready, while
         the routers hold what belongs to it
stop     the replicas drain and end while the routers live, then the routers
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from vlm_sessions.cluster.keeper import Kept
from vlm_sessions.cluster.options import ClusterOptions, Member, RouterOptions
from vlm_sessions.cluster.ports import Reservation
from vlm_sessions.cluster.replicas import SERVE, Replica, shared_environment
from vlm_sessions.cluster.router import Router
from vlm_sessions.serve.children import Children
from vlm_sessions.serve.console import Console
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.greeting import ready_line
from vlm_sessions.serve.stopping import Stopping
from vlm_sessions.serve.tasks import background, first_of

READY_SECONDS = 600.0
"""For one replica of a rolling update; a large model takes minutes to load."""
_POLL_SECONDS = 0.1
_PING_SECONDS = 5.0


class Cluster:
    """Args:
    options: how many of what.
    haproxy: the program.
    environ: of the replicas.
    console: where lines go.
    stopping: set by SIGTERM and SIGINT.
    command: what serves; tests put a smaller one in its place.
    """

    def __init__(
        self,
        options: ClusterOptions,
        haproxy: Path,
        environ: Mapping[str, str],
        *,
        console: Console,
        stopping: Stopping,
        command: Sequence[str] = SERVE,
    ) -> None:
        self._asks_for_key = options.settings.api_keys_file is not None
        self._console = console
        self._stopping = stopping
        self._update_asked = asyncio.Event()
        self._has_terminal = sys.stderr.isatty()
        self._children = Children()
        state_dir = options.settings.resolved_state_dir()
        shared = shared_environment(environ, options.num_replicas)
        self._replicas = [
            Replica(
                name := f"replica-{number}",
                state_dir / name,
                shared,
                command,
                children=self._children,
                say=console.say,
                hurry=stopping.hurried,
            )
            for number in range(1, options.num_replicas + 1)
        ]
        self._peer_ports = [Reservation.make() for _ in range(options.num_routers)]
        self._routers = [
            Router(each, haproxy, self._children, console.say, stopping.hurried)
            for each in self._router_options(options)
        ]

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            CannotServe: a port is not free, or a replica ended before it was ever ready.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            with self._children.orphans_reaped():
                for router in self._routers:
                    router.prepare()
                await self._run()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for router in self._routers:
                router.remove()
            for replica in self._replicas:
                replica.release()
            for port in self._peer_ports:
                port.release()

    def _on_hangup(self) -> None:
        # The same signal says that the terminal has been closed, which ends all that runs in it.
        if self._has_terminal and not sys.stderr.isatty():
            self._stopping.ask()
        else:
            self._update_asked.set()

    async def _run(self) -> None:
        count = len(self._replicas)
        self._console.say(f"Starting {count} replica{'' if count == 1 else 's'} …")
        async with self._everything_kept() as keeping:
            await first_of(self._stopping.asked.wait(), self._serve(), *keeping)
            self._console.say("Stopping.")
            await asyncio.gather(*(replica.process.stop() for replica in self._replicas))
            await asyncio.gather(*(router.process.stop() for router in self._routers))

    @asynccontextmanager
    async def _everything_kept(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(background(process.keep()))
                for process in self._processes()
            ]

    def _processes(self) -> list[Kept]:
        routers = [router.process for router in self._routers]
        return routers + [replica.process for replica in self._replicas]

    async def _serve(self) -> None:
        async with background(self._announce_replicas()) as announcing:
            await first_of(announcing, *(_first_failure(each) for each in self._processes()))
        for router in self._routers:
            self._console.say(f"Router at {router.url}; its admin socket is {router.admin_socket}")
        self._console.say(ready_line(self._routers[0].url, asks_for_key=self._asks_for_key))
        while True:
            await self._update_asked.wait()
            self._update_asked.clear()
            await self._update()

    async def _announce_replicas(self) -> None:
        for replica in self._replicas:
            await self._until(replica, is_ready=True)

    async def _update(self) -> None:
        for replica in self._replicas:
            # One at a time: beside another that is down, this one may be all that there is.
            if not await self._all_ready():
                return
            self._console.say(f"Updating {replica.name}: it drains, ends and starts again …")
            await replica.process.stop()
            await self._until(replica, is_ready=False)
            replica.process.resume()
        if await self._all_ready():
            self._console.say("All replicas are updated.")

    async def _all_ready(self) -> bool:
        """Wait until all replicas are; ``False``: one is not in time, which has been said."""
        for replica in self._replicas:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    await self._until(replica, is_ready=True)
            except TimeoutError:
                self._console.say(
                    f"{replica.name} is not ready after {READY_SECONDS:g} s: the update ends here."
                )
                return False
        return True

    async def _until(self, replica: Replica, *, is_ready: bool) -> None:
        """Wait until every router sees it so."""
        async with httpx.AsyncClient(timeout=_PING_SECONDS, trust_env=False) as http:
            for router in self._routers:
                while True:
                    if (await _state_at(router, replica.name, http) == "ready") == is_ready:
                        break
                    await asyncio.sleep(_POLL_SECONDS)

    def _router_options(self, options: ClusterOptions) -> list[RouterOptions]:
        members = [
            Member(f"router-{number}", port.address)
            for number, port in enumerate(self._peer_ports, start=1)
        ]
        settings = options.settings
        return [
            RouterOptions(
                settings.model_copy(update={"port": settings.port + offset}),
                tuple(replica.member for replica in self._replicas),
                options.hold_seconds,
                options.away_seconds,
                member.name,
                member.address if len(members) > 1 else None,
                tuple(other for other in members if other is not member),
            )
            for offset, member in enumerate(members)
        ]


async def _first_failure(process: Kept) -> None:
    await process.has_failed.wait()
    raise CannotServe(f"{process.name} did not start; it has said why.")


async def _state_at(router: Router, name: str, http: httpx.AsyncClient) -> str | None:
    """The replica's state as the router's /ping tells it; ``None`` if it tells none."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        states = (await http.get(f"{router.url}/ping")).json().get("replicas", {})
        return str(states.get(name))
    return None
