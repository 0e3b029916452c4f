"""A prompt, or chat messages, without a session: nothing is kept but what caches happen to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vlm_sessions.processing import Message, Segment
from vlm_sessions.protocol.schema import Chat, Generate
from vlm_sessions.service.conversation import Dialogue, parse_dialogue
from vlm_sessions.service.images import GatheredImage, ImageDesk, contents_of, image_refs
from vlm_sessions.service.texts import TextDesk
from vlm_sessions.service.work import FinishedAnswer, PreparedTurn


class StatelessWork:
    """Answers one request from what the request holds."""

    session_id = None
    lifetime = None

    def __init__(
        self,
        command: Generate | Chat,
        *,
        client: str | None,
        texts: TextDesk,
        images: ImageDesk,
    ) -> None:
        self._command = command
        self._client = client
        self._texts = texts
        self._images = images

    @property
    def client(self) -> str | None:
        return self._client

    @contextmanager
    def in_use(self) -> Iterator[None]:
        yield

    async def prepare(self) -> PreparedTurn:
        command = self._command
        num_earlier_answers = 0
        if isinstance(command, Generate):
            images = await self._images.gather(command.images)
            segment = await self._texts.turn(
                first=True,
                system=command.system,
                text=command.prompt,
                images=image_refs(one.image for one in images),
            )
        else:
            dialogue = parse_dialogue(command.messages)
            exchanges = (*dialogue.past, dialogue.question)
            images = await self._images.gather([one for e in exchanges for one in e.images])
            segment = await self._encode(dialogue, images)
            num_earlier_answers = len(dialogue.past)
        room = self._texts.room_after(len(segment.tokens))
        return PreparedTurn(
            tokens=segment.tokens,
            images=segment.images,
            max_new_tokens=room,
            contents=contents_of(images),
            num_earlier_answers=num_earlier_answers,
        )

    async def announce(self) -> None:
        """There is no lifetime to announce."""

    async def record(self, answer: FinishedAnswer) -> None:
        """There is no record."""

    async def _encode(self, dialogue: Dialogue, images: Sequence[GatheredImage]) -> Segment:
        messages: list[Message] = []
        if dialogue.system is not None:
            messages.append(Message("system", dialogue.system))
        rest = iter(images)
        for exchange in (*dialogue.past, dialogue.question):
            own = [next(rest).image for _ in exchange.images]
            messages.append(Message("user", exchange.text, image_refs(own)))
            if exchange.answer is not None:
                messages.append(Message("assistant", exchange.answer))
        return await self._texts.whole(messages)
