"""Open, prompt, close: what the product does, as a story of a page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from vlm_sessions.config import Settings
from vlm_sessions.engine.interface import AsyncEngine
from vlm_sessions.engine.types import EngineStats
from vlm_sessions.errors import Draining, ModelChanged, VlmError
from vlm_sessions.logs import get_logger
from vlm_sessions.media.fetch import ImageFetcher
from vlm_sessions.processing import Processor, Segment
from vlm_sessions.protocol.schema import (
    Cancelled,
    Chat,
    Closed,
    Described,
    Generate,
    Opened,
    OpenSession,
    Prompt,
    RewindSession,
    Rewound,
)
from vlm_sessions.service.answers import AnswerStream
from vlm_sessions.service.describe import describe, image_infos
from vlm_sessions.service.generation import check_options
from vlm_sessions.service.images import ImageDesk, contents_of, image_refs
from vlm_sessions.service.overload import Backlog
from vlm_sessions.service.prefill import Prefills
from vlm_sessions.service.quota import Quota
from vlm_sessions.service.session_work import SessionWork
from vlm_sessions.service.stateless_work import StatelessWork
from vlm_sessions.service.texts import TextDesk, texts_of
from vlm_sessions.service.turns import TurnRunner
from vlm_sessions.service.work import lifetime_of, salt_of, to_spans
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.session import Session
from vlm_sessions.sessions.store import SessionStore, to_the_end

SWEEP_SECONDS = 1.0
NEW_CLIENT = ""
"""Who has nothing in the engine yet."""
LOCK_WAIT_SECONDS = 10.0
"""For a predecessor that was told to stop and still holds the state directory."""

_log = get_logger("service")


class SessionService:
    """Sessions over one engine. All methods belong to one event loop; none blocks it."""

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        processor: Processor,
        *,
        clock: Callable[[], float] = time.time,
        fetcher: ImageFetcher | None = None,
        journal: Journal | None = None,
    ) -> None:
        """Nothing happens before ``start``. What is given here is the service's to close.

        Args:
            clock: seconds since the epoch; lifetimes are counted by it.
        """
        self._engine = engine
        self._processor = processor
        self._settings = settings
        journal = journal or Journal(
            settings.resolved_state_dir(), lock_wait_seconds=LOCK_WAIT_SECONDS
        )
        self._store = SessionStore(journal, settings, clock)
        self._images = ImageDesk(
            settings, processor, fetcher or ImageFetcher(settings), self._store.read_image
        )
        self._texts = TextDesk(processor, settings)
        self._quota = Quota(settings.max_queued_per_key)
        self._backlog = Backlog(settings.max_wait_seconds)
        self._turns = TurnRunner(
            settings,
            engine,
            processor,
            self._images,
            quota=self._quota,
            backlog=self._backlog,
        )
        self._prefills = Prefills(engine, self._images, self._backlog)
        self._sweeper: asyncio.Task[None] | None = None
        self._leaving = False
        self._draining = False

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the journal, load the model, begin to end sessions whose time has come.

        Raises:
            ConfigError: the state directory cannot be used.
            EngineUnavailable: the model could not be loaded.
        """
        await self._store.start()
        info = await self._engine.start()
        self._texts.fit_engine(info.max_context)
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="sweeper")

    def announce_drain(self) -> None:
        """Say that no more should be sent here; everything is answered as before."""
        self._leaving = True

    def begin_drain(self) -> None:
        """Take nothing new; what is running or waiting goes on. See ``num_prompts``."""
        self._leaving = self._draining = True

    async def close(self) -> None:
        """End everything; sessions stay in the journal."""
        self.begin_drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        await self._turns.close()
        await self._prefills.close()
        await self._images.close()
        await self._store.close()
        # Last: one that hangs takes seconds to end, and holds only caches.
        await self._engine.close()

    @property
    def ready(self) -> bool:
        """Whether a prompt that came now would be answered."""
        return self._sweeper is not None and not self._draining and self._engine.ready

    @property
    def draining(self) -> bool:
        """Whether no more should be sent here: the service is about to end."""
        return self._leaving

    @property
    def num_open_sessions(self) -> int:
        return self._store.num_open

    @property
    def num_prompts(self) -> int:
        """Running or waiting."""
        return self._turns.num_prompts

    async def engine_stats(self) -> EngineStats:
        return await self._engine.stats()

    def check_integrity(self) -> None:
        """Assert the invariants of sessions and prompts. Walks everything: for tests."""
        self._store.check_integrity()
        self._turns.check_integrity()

    # --- the story ------------------------------------------------------------------------------
    #
    # ``client`` is who asks: the name that its API key goes by, ``None`` without keys. A session
    # belongs to the client that opened it and is unknown to all others.

    async def open(self, command: OpenSession, *, client: str | None = None) -> Opened:
        """Take images in, journal the record, begin to compute ahead.

        Raises:
            Draining, TooManySessions, Overloaded, QueueFull, TooManyImages, ContextOverflow,
            ReservedText, InsufficientStorage; what fetching and decoding an image raise.
        """
        self._check_open()
        self._store.check_room(client)
        self._backlog.check_opening(client or NEW_CLIENT)
        self._texts.check_length((command.system or "",))
        with self._quota.place(client):
            gathered = await self._images.gather(command.images)
            images = tuple(one.image for one in gathered)
            opening = await self._texts.opening(command.system, image_refs(images))
            session = await self._store.open(
                model=self._processor.fingerprint,
                system=command.system,
                images=images,
                contents=contents_of(gathered),
                owner=client,
            )
        if self._may_compute_ahead and opening.tokens:
            self._prefills.begin(session, opening, contents_of(gathered))
        return Opened(lifetime=lifetime_of(session), images=image_infos(session))

    async def prompt(
        self,
        session_id: str,
        command: Prompt | Chat,
        request_id: str,
        *,
        client: str | None = None,
    ) -> AnswerStream:
        """Ask in a session; see ``AnswerStream`` for when it runs and when it counts.

        Raises:
            Draining, InvalidField, ContextOverflow, MalformedSessionId, SessionNotFound,
            SessionClosed, SessionExpired, ModelChanged, Overloaded; the stream's first event raises
            what is found out later.
        """
        self._check_open()
        session = self._store.owned(session_id, client)
        self._check_model(session)
        num_in_line = self._turns.num_in_line(session_id)
        self._backlog.check_prompt(client or session_id, num_in_line=num_in_line)
        check_options(command, self._settings)
        self._texts.check_length(texts_of(command))
        work = SessionWork(
            session_id,
            command,
            client=client,
            store=self._store,
            texts=self._texts,
            images=self._images,
            prefilled=self._prefills.done,
        )
        events = self._turns.events(work, command, request_id=request_id, stream=command.stream)
        return AnswerStream(work, events)

    async def generate(
        self, command: Generate | Chat, request_id: str, *, client: str | None = None
    ) -> AnswerStream:
        """Ask without a session; nothing is recorded.

        Raises:
            Draining, InvalidField, ContextOverflow, Overloaded; the stream's first event raises
            what is found out later.
        """
        self._check_open()
        self._backlog.check_prompt(client or request_id)
        check_options(command, self._settings)
        self._texts.check_length(texts_of(command))
        work = StatelessWork(command, client=client, texts=self._texts, images=self._images)
        events = self._turns.events(work, command, request_id=request_id, stream=command.stream)
        return AnswerStream(work, events)

    async def cancel(self, session_id: str, *, client: str | None = None) -> Cancelled:
        """End the session's running prompt, without a trace in its record.

        Raises:
            MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired.
        """
        session = self._store.owned(session_id, client)
        cancelled = self._turns.cancel_session(session_id)
        return Cancelled(lifetime=lifetime_of(session), cancelled=cancelled)

    async def cancel_request(self, request_id: str) -> bool:
        """End the prompt of a request, running or waiting; whether there was one."""
        return self._turns.cancel_request(request_id)

    async def describe(self, session_id: str, *, client: str | None = None) -> Described:
        """The record, less its bytes, and where it is cached. Does not renew the lifetime.

        Raises:
            MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired.
        """
        session = self._store.owned(session_id, client)
        prefix = await self._prefix(session)
        location = await self._engine.locate(
            prefix.tokens, prefix.images, salt=salt_of(session.owner)
        )
        return describe(
            session,
            num_tokens=len(prefix.tokens),
            num_dropped_turns=len(session.turns) - len(self._texts.given(session.turns)),
            location=location,
        )

    async def fork(self, session_id: str, *, client: str | None = None) -> Opened:
        """Open another session that shares all that is recorded; a running prompt is not.

        Raises:
            Draining, MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired,
            ModelChanged, TooManySessions, InsufficientStorage.
        """
        self._check_open()
        self._check_model(self._store.owned(session_id, client))
        session = await self._store.fork(session_id)
        await self._keep_cached(session, after=session_id)
        return Opened(lifetime=lifetime_of(session), images=image_infos(session))

    async def rewind(
        self, session_id: str, command: RewindSession, *, client: str | None = None
    ) -> Rewound:
        """Take back the session's last turns, as if they had never been.

        Raises:
            Draining, MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired,
            ModelChanged, SessionBusy, TooFewTurns, InsufficientStorage.
        """
        self._check_open()
        self._check_model(self._store.owned(session_id, client))
        return await to_the_end(self._rewind(session_id, command.turns))

    async def _rewind(self, session_id: str, num_turns: int) -> Rewound:
        """Runs on if the client leaves: no prompt may begin on what is being taken back."""
        async with self._turns.between_prompts(session_id):
            session = await self._store.rewind(session_id, num_turns)
            await self._keep_cached(session)
        return Rewound(lifetime=lifetime_of(session), rewound=num_turns, turns=len(session.turns))

    async def close_session(self, session_id: str, *, client: str | None = None) -> Closed:
        """End a session: its running prompt is cancelled, its images and words are removed.

        Raises:
            MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired,
            InsufficientStorage.
        """
        self._store.owned(session_id, client)
        await self._store.end(session_id)
        await self._let_go(session_id)
        return Closed(session_id=session_id)

    async def sweep(self) -> None:
        """End the sessions whose time has come."""
        for session_id in await self._store.sweep():
            await self._let_go(session_id)

    # --- inside ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._draining:
            raise Draining("The service is shutting down. Send the request again.")

    def _check_model(self, session: Session) -> None:
        """Another model's token ids may mean anything to this one, or nothing."""
        if session.model != self._processor.fingerprint:
            raise ModelChanged(
                "This session was opened with another model than "
                f"{self._processor.model_name}, which is served now. Open a new session, or start "
                "the service with the model of before: the session is kept."
            )

    @property
    def _may_compute_ahead(self) -> bool:
        return self._settings.prefill_on_open and self._engine.ready

    async def _keep_cached(self, session: Session, *, after: str | None = None) -> None:
        """Have the engine keep the conversation as it now is, and not as it was before. What is
        cached, and it should all be, is not computed again."""
        if not self._may_compute_ahead:
            return
        try:
            prefix = await self._prefix(session)
        except VlmError as error:  # a smaller context than before; the change itself stands
            _log.info("not_computed_ahead", session_id=session.id, code=error.code)
            return
        await self._prefills.cancel(session.id)
        if prefix.tokens and self._store.is_open(session.id):
            self._prefills.begin(session, prefix, {}, after=after)

    async def _prefix(self, session: Session) -> Segment:
        """The conversation as the model is given it; before its first question, what is certain."""
        if session.turns:
            given = replace(session, turns=self._texts.given(session.turns))
            return Segment(given.tokens, to_spans(given.places))
        return await self._texts.opening(session.system, image_refs(session.images))

    async def _let_go(self, session_id: str) -> None:
        """End what runs for a session that has ended, and free what the engine keeps for it."""
        self._turns.cancel_session(session_id)
        await self._prefills.cancel(session_id)
        await self._turns.session_idle(session_id)
        try:
            await self._engine.release(session_id)
        except VlmError as error:  # an engine that is down keeps nothing
            _log.info("release_failed", session_id=session_id, code=error.code)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except VlmError as error:
                _log.error("sweep_failed", code=error.code)
            except Exception:  # noqa: BLE001  # a task of its own: nobody else would tell
                _log.exception("sweep_failed")
