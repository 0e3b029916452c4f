"""From host names to the addresses that may be connected to.

The system is asked on our own threads. aiohttp's resolver would use the event loop's shared ones,
where a handful of names whose servers do not answer (each holds a thread for many seconds, and a
time-out does not free it) would keep everybody else's decoding and tokenizing waiting. Here they
keep only other names waiting.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from vlm_sessions.media.addresses import FetchPolicy

NUM_THREADS = 16
"""Waiting costs nothing but a stack; this many names may hang before others have to wait."""


class SystemResolver(AbstractResolver):
    """``getaddrinfo``. Belongs to one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of ``host``.

        Raises:
            OSError: it has none.
        """
        ask = partial(
            socket.getaddrinfo,
            host,
            port,
            family=family,
            type=socket.SOCK_STREAM,
            flags=socket.AI_ADDRCONFIG,
        )
        found = await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Refused(OSError):
    """A host resolved to nothing but addresses that may not be connected to."""


class GuardedResolver(AbstractResolver):
    """Passes on only those addresses of a host that the policy allows."""

    def __init__(self, inner: AbstractResolver, policy: FetchPolicy) -> None:
        self._inner = inner
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if self._policy.allows(host, one["host"])]
        if found and not allowed:
            raise Refused(f"{host} resolves to private addresses only")
        return allowed

    async def close(self) -> None:
        await self._inner.close()
