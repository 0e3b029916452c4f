"""Text into tokens for the service: within limits, and off the event loop when it is long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from vlm_sessions.config import Settings
from vlm_sessions.errors import ContextOverflow
from vlm_sessions.processing import ImageRef, Message, Processor, Segment
from vlm_sessions.protocol.schema import Chat, Generate, Prompt
from vlm_sessions.service.window import turns_given
from vlm_sessions.sessions.session import SessionTurn

INLINE_CHARS = 4000
"""A text up to this long is tokenized in less time than a thread takes to be woken."""


def texts_of(command: Prompt | Generate | Chat) -> list[str]:
    """All that people wrote in a request for an answer."""
    match command:
        case Prompt():
            return [command.prompt]
        case Generate():
            return [command.system or "", command.prompt]
        case Chat():
            return [message.text for message in command.messages]


class TextDesk:
    """A processor's text side with the limits of this service around it."""

    def __init__(self, processor: Processor, settings: Settings) -> None:
        self._processor = processor
        self._max_chars = settings.max_prompt_chars
        self._drops_oldest = settings.context_overflow == "drop_oldest"
        self._default_max_new_tokens = settings.default_max_new_tokens
        self._max_context = processor.max_context

    def fit_engine(self, max_context: int) -> None:
        """Lower the context to what the engine, once started, has room for."""
        self._max_context = min(self._processor.max_context, max_context)

    def check_length(self, texts: Iterable[str]) -> int:
        """How many characters ``texts`` have together. Costs nothing, so it comes before all else.

        Raises:
            ContextOverflow: more than a request may have.
        """
        num_chars = sum(len(text) for text in texts)
        if num_chars > self._max_chars:
            raise ContextOverflow(
                f"The request's text has {num_chars} characters, the limit is {self._max_chars}. "
                "Shorten it; VLM_MAX_PROMPT_CHARS raises the limit."
            )
        return num_chars

    def given(
        self, turns: Sequence[SessionTurn], *, num_new: int = 0, num_wanted: int | None = None
    ) -> tuple[SessionTurn, ...]:
        """Those of a session's turns that the model is given; see ``window``.

        Args:
            num_new: tokens of the new prompt.
            num_wanted: tokens of the answer that was asked for; ``None``: no number was named.
        """
        if not self._drops_oldest:
            return tuple(turns)
        return turns_given(
            turns,
            num_new=num_new,
            num_wanted=num_wanted or self._default_max_new_tokens,
            max_context=self._max_context,
        )

    def room_after(self, num_tokens: int, *, num_turns: int = 0) -> int:
        """Tokens of an answer that fit after what the model is given.

        Args:
            num_tokens: of what it is given: a new prompt, and turns of a session before it.
            num_turns: how many turns the session has.

        Raises:
            ContextOverflow: not even one.
        """
        if num_tokens >= self._max_context:
            advice = "Shorten the prompt, or open a new session"
            if num_turns and self._drops_oldest:
                advice += "; all turns are left out already but the first and those with images"
            elif num_turns:
                advice += (
                    "; with VLM_CONTEXT_OVERFLOW=drop_oldest a session's oldest turns are left out"
                )
            raise ContextOverflow(
                f"The conversation with this prompt has {num_tokens} tokens; together with an "
                f"answer it must fit the model's context of {self._max_context}. {advice}."
            )
        return self._max_context - num_tokens

    async def opening(self, system: str | None, images: Sequence[ImageRef]) -> Segment:
        """The certain beginning of a conversation.

        Raises:
            ReservedText, ContextOverflow.
        """
        work = partial(self._processor.encode_opening, system, images)
        return await self._encode(work, (system or "",))

    async def turn(
        self, *, first: bool, system: str | None, text: str, images: Sequence[ImageRef]
    ) -> Segment:
        """What a user's turn adds.

        Raises:
            ReservedText, ContextOverflow.
        """
        work = partial(
            self._processor.encode_turn, first=first, system=system, text=text, images=images
        )
        return await self._encode(work, (system or "", text))

    async def whole(self, messages: Sequence[Message]) -> Segment:
        """A conversation from its first to its last message.

        Raises:
            ReservedText, ContextOverflow.
        """
        work = partial(self._processor.encode_conversation, messages)
        return await self._encode(work, [message.text for message in messages])

    async def _encode(self, work: Callable[[], Segment], texts: Sequence[str]) -> Segment:
        num_chars = self.check_length(texts)
        segment = work() if num_chars <= INLINE_CHARS else await asyncio.to_thread(work)
        self.room_after(len(segment.tokens))
        return segment
