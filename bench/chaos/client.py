"""One client: a few sessions of its own, one thing at a time, chosen by its own random numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.chaos.attempt import Attempt, Ended
from bench.chaos.record import GONE, Conversation
from bench.chaos.reference import Play
from bench.chaos.talk import Broke, Talk, opening, prompt
from bench.chaos.tally import Tally
from bench.chaos.weather import Weather

MAX_HELD = 4
"""Sessions that a client keeps open."""
IDLE_SECONDS = 0.05


@dataclass
class Manners:
    """How clients behave just now; faults change it."""

    leave_streams: bool = False
    """Every prompt is streamed, and left after its first token."""
    break_off_uploads: bool = False
    """Whatever is sent breaks off in the middle."""


class Client:
    """Does one thing after another; see ``step``."""

    def __init__(
        self,
        rng: Random,
        talk: Talk,
        plays: Sequence[Play],
        *,
        weather: Weather,
        tally: Tally,
        manners: Manners,
    ) -> None:
        self._rng = rng
        self._talk = talk
        self._plays = plays
        self._attempt = Attempt(weather, tally)
        self._tally = tally
        self._manners = manners
        self.conversations: list[Conversation] = []
        """Its open sessions, and those that may be."""

    async def step(self) -> None:
        """Do one thing, whatever comes of it.

        Raises nothing that the service could cause: what it does wrong goes into the tally.
        """
        if self._manners.break_off_uploads:
            await self._break_off_upload()
            return
        known = [each for each in self.conversations if not each.doubtful]
        if len(self.conversations) < MAX_HELD and (not known or self._rng.random() < 0.3):
            await self._open()
        elif known:
            await self._use(self._rng.choice(known))
        else:
            await asyncio.sleep(IDLE_SECONDS)

    async def _use(self, conversation: Conversation) -> None:
        """Do one of the things that can be done in a session."""
        if conversation.next_question is None:
            finals = (self._rewind, self._close, self._close, self._describe)
            await self._rng.choice(finals)(conversation)
            return
        if self._manners.leave_streams:
            await self._leave_stream(conversation)
            return
        operations: dict[Callable[[Conversation], Awaitable[None]], float] = {
            self._ask: 30,
            self._stream: 30,
            self._cancel: 10,
            self._leave_stream: 1,
            self._describe: 8,
            self._fork: 5 if len(self.conversations) < MAX_HELD else 0,
            self._rewind: 5 if conversation.num_turns else 0,
            self._close: 4,
            self._generate: 4,
        }
        (operation,) = self._rng.choices(list(operations), list(operations.values()))
        await operation(conversation)

    # --- what can be done -----------------------------------------------------------------------

    async def _open(self) -> None:
        play = self._rng.choice(self._plays)
        opened = await self._attempt("open", self._talk.open(play.script))
        self._take_in(opened, play, 0)

    async def _fork(self, parent: Conversation) -> None:
        forked = await self._attempt("fork", self._talk.fork(parent.session_id))
        self._take_in(forked, parent.play, parent.num_turns)

    def _take_in(self, opened: Ended[str], play: Play, num_turns: int) -> None:
        if opened.value is not None:
            self.conversations.append(Conversation(opened.value, play, num_turns))
        elif not opened.decided:
            self._tally.num_unknown_opens += 1

    async def _ask(self, conversation: Conversation) -> None:
        await self._prompt("prompt", conversation, stream=False)

    async def _stream(self, conversation: Conversation) -> None:
        await self._prompt("stream", conversation, stream=True)

    async def _prompt(self, operation: str, conversation: Conversation, *, stream: bool) -> None:
        question = conversation.next_question
        assert question is not None, "there is something to ask"
        asking = self._talk.ask(conversation.session_id, question, stream=stream)
        self._hear(conversation, await self._attempt(operation, asking))

    async def _cancel(self, conversation: Conversation) -> None:
        """Cancel a stream once it has begun; it may be too late."""
        streaming = self._interrupt(conversation, self._send_cancel)
        self._hear(conversation, await self._attempt("cancelled stream", streaming))

    async def _send_cancel(self, conversation: Conversation) -> bool:
        cancelling = self._talk.post({"type": "cancel_prompt"}, conversation.session_id)
        await self._attempt("cancel", cancelling)
        return True

    async def _leave_stream(self, conversation: Conversation) -> None:
        """Close the connection once the answer has begun."""

        async def leave(_: Conversation) -> bool:
            return False

        leaving = self._interrupt(conversation, leave)
        ended = await self._attempt("left stream", leaving)
        if ended.value == {}:
            ended = Ended(None, decided=False)
        self._hear(conversation, ended)

    async def _interrupt(
        self, conversation: Conversation, interrupt: Callable[[Conversation], Awaitable[bool]]
    ) -> dict[str, Any]:
        """Stream the next answer and interrupt it at its first token.

        Args:
            interrupt: whether to stay for the rest.

        Returns:
            the stream's last event; empty: it was left.
        """
        question = conversation.next_question
        assert question is not None, "there is something to ask"
        body, interrupted = prompt(question, stream=True), False
        async with aclosing(self._talk.events(body, conversation.session_id)) as events:
            async for name, data in events:
                if name == "done":
                    return data
                if not interrupted and not await interrupt(conversation):
                    return {}
                interrupted = True
        raise Broke("a stream ended without an end")

    def _hear(self, conversation: Conversation, ended: Ended[dict[str, Any]]) -> None:
        """Take over what became of the next question."""
        if ended.value is not None:
            self._tally.num_answers_checked += 1
            self._tally.num_cancelled += ended.value["finish_reason"] == "cancelled"
            self._tally.blame(*conversation.heard(ended.value))
        elif not ended.decided:
            conversation.num_if_done = conversation.num_turns + 1

    async def _describe(self, conversation: Conversation) -> None:
        describing = self._talk.describe(conversation.session_id)
        described = await self._attempt("describe", describing)
        if described.value is not None:
            self._tally.num_records_checked += 1
            self._tally.blame(*conversation.settle(described.value))

    async def _rewind(self, conversation: Conversation) -> None:
        if not conversation.num_turns:
            return
        kept = self._rng.randrange(conversation.num_turns)
        body = {"type": "rewind_session", "turns": conversation.num_turns - kept}
        rewinding = self._talk.post(body, conversation.session_id)
        rewound = await self._attempt("rewind", rewinding)
        if rewound.value is not None:
            conversation.num_turns = kept
        elif not rewound.decided:
            conversation.num_if_done = kept

    async def _close(self, conversation: Conversation) -> None:
        closed = await self._attempt("close", self._talk.close(conversation.session_id))
        if not closed.decided:
            conversation.may_be_closed = True
        elif closed.value is not None:
            self.conversations.remove(conversation)
            described = self._talk.describe(conversation.session_id)
            if (await self._attempt("describe closed", described, right=GONE)).value is not None:
                self._tally.blame(f"session {conversation.session_id} is there after its close")

    async def _generate(self, conversation: Conversation) -> None:
        """The first question of a session's script once more, without a session."""
        play = conversation.play
        generated = await self._attempt("generate", self._talk.generate(play.script))
        if generated.value is not None:
            self._tally.num_answers_checked += 1
            said, right = generated.value["text"], play.turns[0]["answer"]
            if said != right:
                self._tally.blame(f"without a session {said!r} was answered, right is {right!r}")

    async def _break_off_upload(self) -> None:
        script = self._rng.choice(self._plays).script
        uploading = self._talk.break_off_upload(opening(script))
        await self._attempt("upload broken off", uploading)
        await asyncio.sleep(IDLE_SECONDS)
