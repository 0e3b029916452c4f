"""A prompt, or chat messages, in a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vlm_sessions.engine.types import ImageSpan, Retention
from vlm_sessions.errors import ConversationMismatch
from vlm_sessions.processing import Segment
from vlm_sessions.protocol.schema import Chat, Lifetime, Prompt
from vlm_sessions.service import conversation
from vlm_sessions.service.images import GatheredImage, ImageDesk, contents_of, image_refs
from vlm_sessions.service.texts import TextDesk
from vlm_sessions.service.work import (
    FinishedAnswer,
    PreparedTurn,
    lifetime_of,
    to_places,
    to_spans,
)
from vlm_sessions.sessions.session import Session, SessionTurn
from vlm_sessions.sessions.store import SessionStore


@dataclass(frozen=True, slots=True)
class _Question:
    """What the command adds to the conversation."""

    text: str
    images: tuple[GatheredImage, ...]
    system: str | None
    """Of the session, from this turn on."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A turn that lacks its answer."""

    session: Session
    question: _Question
    segment: Segment


class SessionWork:
    """Continues the conversation of a session, as it stands when its turn comes."""

    def __init__(
        self,
        session_id: str,
        command: Prompt | Chat,
        *,
        client: str | None,
        store: SessionStore,
        texts: TextDesk,
        images: ImageDesk,
        prefilled: Callable[[str], Awaitable[None]],
    ) -> None:
        self._session_id = session_id
        self._client = client
        self._command = command
        self._store = store
        self._texts = texts
        self._images = images
        self._prefilled = prefilled
        self._draft: _Draft | None = None
        self._lifetime: Lifetime | None = None

    @property
    def lifetime(self) -> Lifetime | None:
        return self._lifetime

    @property
    def session_id(self) -> str:
        return self._session_id

    @property
    def client(self) -> str | None:
        return self._client

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self._store.begin_use(self._session_id)
        try:
            yield
        finally:
            self._store.end_use(self._session_id)

    async def prepare(self) -> PreparedTurn:
        session = self._store.get(self._session_id)
        question = await self._ask(session)
        new_images = tuple(one.image for one in question.images)
        self._images.check_count(len(session.images) + len(new_images))
        segment = await self._texts.turn(
            first=not session.turns,
            system=question.system,
            text=question.text,
            images=image_refs((*session.pending_images, *new_images)),
        )
        self._draft = _Draft(session, question, segment)
        # What the opening is still computing is a part of this prompt; it is not computed twice.
        await self._prefilled(self._session_id)
        return self._assemble(self._draft)

    async def announce(self) -> None:
        self._lifetime = lifetime_of(await self._store.touch(self._session_id))

    async def record(self, answer: FinishedAnswer) -> None:
        draft = self._draft
        assert draft is not None, "prepare() comes first"
        turn = SessionTurn(
            prompt=draft.question.text,
            images=to_places(draft.segment),
            prompt_tokens=draft.segment.tokens,
            answer_tokens=answer.tokens,
            answer=answer.text,
            finish_reason=answer.finish_reason,
        )
        session = await self._store.append(
            draft.session,
            turn,
            images=tuple(one.image for one in draft.question.images),
            contents=contents_of(draft.question.images),
            system=draft.question.system,
        )
        self._lifetime = lifetime_of(session)

    def _assemble(self, draft: _Draft) -> PreparedTurn:
        """What the model is given: what is recorded, as far as it fits, then the new turn."""
        session = draft.session
        given = replace(
            session,
            turns=self._texts.given(
                session.turns,
                num_new=len(draft.segment.tokens),
                num_wanted=self._command.max_new_tokens,
            ),
        )
        earlier = given.tokens
        tokens = earlier + draft.segment.tokens
        new_spans = (
            ImageSpan(span.digest, span.start + len(earlier), span.length)
            for span in draft.segment.images
        )
        return PreparedTurn(
            tokens=tokens,
            images=(*to_spans(given.places), *new_spans),
            max_new_tokens=self._texts.room_after(len(tokens), num_turns=len(session.turns)),
            contents=contents_of(draft.question.images),
            num_earlier_answers=len(session.turns),
            num_dropped_turns=len(session.turns) - len(given.turns),
            retention=Retention(session.id, self._store.renewed(session).expires_at),
        )

    async def _ask(self, session: Session) -> _Question:
        command = self._command
        if isinstance(command, Prompt):
            self._images.check_count(len(session.images) + len(command.images))
            images = await self._images.gather(command.images)
            return _Question(command.prompt, images, session.system)
        dialogue = conversation.parse_dialogue(command.messages, ConversationMismatch)
        system = conversation.merge_system(session, dialogue.system)
        conversation.check_texts(session, dialogue.past)
        for number, exchange in enumerate(dialogue.past):
            digests = await self._images.digests(exchange.images)
            conversation.check_images(session, number, exchange, digests)
        images = await self._images.gather(dialogue.question.images)
        repeated = conversation.num_repeated(session, [one.image.digest for one in images])
        return _Question(dialogue.question.text, images[repeated:], system)
