"""All clients at once, and the moments between faults in which they stand still and are checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from bench.chaos.client import Client, Manners
from bench.chaos.record import GONE, Conversation
from bench.chaos.reference import Play
from bench.chaos.talk import Broke, Garbled, Hung, Refused, Talk
from bench.chaos.tally import Tally
from bench.chaos.weather import Weather

CHECKED_AT_ONCE = 4
FAILURES = (Refused, Broke, Hung, Garbled)


class Traffic:
    """Clients that do one thing after another until they are told to pause.

    Args:
        seed: of what they choose; when it happens beside what else is left to the machine.
    """

    def __init__(
        self,
        talk: Talk,
        plays: Sequence[Play],
        *,
        num_clients: int,
        seed: int,
        weather: Weather,
        tally: Tally,
    ) -> None:
        self._talk = talk
        self._tally = tally
        self.manners = Manners()
        self._clients = [
            Client(
                Random(f"client {seed} {number}"),
                talk,
                plays,
                weather=weather,
                tally=tally,
                manners=self.manners,
            )
            for number in range(num_clients)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._goes = asyncio.Event()
        self._num_busy = 0
        self._none_busy = asyncio.Event()
        self._none_busy.set()

    @property
    def conversations(self) -> list[Conversation]:
        return [each for client in self._clients for each in client.conversations]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """During the block, clients work whenever they are not paused; they begin so."""
        self._tasks = [asyncio.create_task(self._drive(client)) for client in self._clients]
        self._goes.set()
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        self._raise_failures()

    def _raise_failures(self) -> None:
        """A client ends by an exception only when this program is wrong."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _drive(self, client: Client) -> None:
        while True:
            await self._goes.wait()
            if not self._goes.is_set():  # told to go, and to pause before it was its turn
                continue
            self._num_busy += 1
            self._none_busy.clear()
            try:
                await client.step()
            finally:
                self._num_busy -= 1
                if not self._num_busy:
                    self._none_busy.set()

    async def pause(self) -> None:
        """Let every client end what it does. Each request has a time limit, so this ends."""
        self._goes.clear()
        await self._none_busy.wait()
        self._raise_failures()

    def resume(self) -> None:
        self._goes.set()

    async def check(self) -> None:
        """While paused, and nothing runs in the service: every session holds what it must."""
        places = asyncio.Semaphore(CHECKED_AT_ONCE)

        async def check(client: Client, conversation: Conversation) -> None:
            async with places:
                await self._check(client, conversation)

        await asyncio.gather(
            *(check(client, each) for client in self._clients for each in client.conversations)
        )

    async def _check(self, client: Client, conversation: Conversation) -> None:
        num_before, in_doubt = conversation.num_turns, conversation.num_if_done is not None
        try:
            described = await self._talk.describe(conversation.session_id)
        except FAILURES as exc:
            gone = isinstance(exc, Refused) and exc.code in GONE
            if not (gone and conversation.may_be_closed):
                self._tally.blame(f"session {conversation.session_id} is lost: {exc}")
            client.conversations.remove(conversation)
            return
        self._tally.num_records_checked += 1
        self._tally.blame(*conversation.settle(described))
        if in_doubt and conversation.num_turns == num_before:
            self._tally.num_settled_out += 1
        elif in_doubt:
            self._tally.num_settled_in += 1

    async def close_all(self) -> None:
        """While paused: close every session."""
        for client in self._clients:
            for conversation in client.conversations:
                try:
                    await self._talk.close(conversation.session_id)
                except FAILURES as exc:
                    self._tally.blame(f"session {conversation.session_id} does not close: {exc}")
            client.conversations.clear()
