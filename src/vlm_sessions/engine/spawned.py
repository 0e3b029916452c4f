"""One spawned engine process, seen from its parent: the process and the socket to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence

import msgspec

from vlm_sessions.engine.types import EngineInfo
from vlm_sessions.engine.wire import (
    LENGTH,
    Command,
    Loaded,
    LoadFailed,
    Reply,
    decode_reply,
    encode,
)
from vlm_sessions.errors import EngineUnavailable

_STDERR = 2
_EXIT_SECONDS = 5.0
"""What a child gets to notice that its socket is closed, before it is killed."""


class SpawnedEngine:
    """One spawned engine process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(cls, command: Sequence[str], env: Mapping[str, str] | None) -> SpawnedEngine:
        """Start a process that owns the other end of a new socket.

        Raises:
            OSError: the command cannot be run.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=_STDERR,
                    pass_fds=(theirs.fileno(),),
                    env=env,
                )
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def loaded(self) -> EngineInfo:
        """The first reply of a child whose model is loaded.

        Raises:
            EngineUnavailable: it failed, it died without a word, or it is not an engine.
        """
        try:
            reply = await self.receive()
        except msgspec.DecodeError as exc:
            raise EngineUnavailable(
                f"The engine process sent what is not a reply while it loaded: {exc}."
            ) from exc
        if isinstance(reply, Loaded):
            return reply.info
        if isinstance(reply, LoadFailed):
            raise EngineUnavailable(f"The model could not be loaded: {reply.message}")
        status = await self._process.wait() if reply is None else None
        raise EngineUnavailable(
            f"The engine process ended before its model was loaded (exit status {status}); its "
            "standard error says more."
        )

    async def receive(self) -> Reply | None:
        """The next reply; ``None`` once the child is gone.

        Raises:
            msgspec.DecodeError: not a reply.
        """
        try:
            head = await self._reader.readexactly(LENGTH.size)
            body = await self._reader.readexactly(LENGTH.unpack(head)[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return decode_reply(body)

    def send(self, command: Command) -> None:
        """Never waits: what the socket does not take now is buffered here."""
        if not self._writer.is_closing():
            self._writer.write(encode(command))

    async def end(self) -> None:
        """Close the socket, which ends the child; kill it if it does not end. Leaves no zombie.

        When this is cancelled it can be called again.
        """
        self._writer.close()
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, 9)
            await self._process.wait()
