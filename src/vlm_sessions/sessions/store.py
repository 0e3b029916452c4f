"""The table of open sessions: limits and lifetimes in memory, every change journalled first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from weakref import WeakValueDictionary

from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    InsufficientStorage,
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooFewTurns,
    TooManySessions,
)
from vlm_sessions.sessions.expiries import Expiries
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.room import Room
from vlm_sessions.sessions.session import (
    Session,
    SessionImage,
    SessionState,
    SessionTurn,
    check_session_id,
    end_session,
    open_session,
)
from vlm_sessions.sessions.tombstones import Tombstones

Clock = Callable[[], float]
"""Seconds since the epoch."""

T = TypeVar("T")


class SessionStore:
    """Open sessions by id. All methods belong to one event loop.

    A change is written to the journal, then to the table; a change whose journalling fails has
    not happened, and one that has been journalled happens even if its caller is cancelled. Images'
    bytes stay in the journal.
    """

    def __init__(self, journal: Journal, settings: Settings, clock: Clock) -> None:
        self._journal = journal
        self._settings = settings
        self._clock = clock
        self._open: dict[str, Session] = {}  # id -> its newest record
        self._room = Room(most=settings.max_sessions, most_per_owner=settings.max_sessions_per_key)
        self._ended = Tombstones()
        self._expiries = Expiries()
        self._changes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._num_users: dict[str, int] = {}  # id -> prompts at work or waiting
        self._journalled_until: dict[str, float] = {}  # id -> expires_at in the journal

    async def start(self) -> None:
        """Open the journal and take up what it holds; sessions whose time has passed are ended."""
        await self._journal.open()
        contents = await self._journal.load()
        for session in contents.sessions:
            self._put(session)
            self._room.add(session.owner)
            self._journalled_until[session.id] = session.expires_at
            self._expiries.add(session)
        for tombstone in contents.tombstones:
            self._ended.add(tombstone)
        # A full disk is no reason not to serve: what is over counts as over until it can be ended.
        with suppress(InsufficientStorage):
            await self.sweep()

    async def close(self) -> None:
        await self._journal.close()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def is_open(self, session_id: str) -> bool:
        """Whether a session has neither been closed nor ended by time."""
        return session_id in self._open

    async def open(
        self,
        *,
        model: str,
        system: str | None,
        images: tuple[SessionImage, ...],
        contents: Mapping[str, bytes],
        owner: str | None = None,
    ) -> Session:
        """Open a session and journal it.

        Args:
            model: fingerprint of the processor whose tokens it will hold.
            contents: digest -> encoded bytes of ``images``.
            owner: the client that alone may use it; ``None`` without API keys.

        Raises:
            TooManySessions: as many as allowed are open.
            InsufficientStorage: the journal has no room.
        """
        await self._make_room(owner)
        session = open_session(
            model=model,
            now=self._clock(),
            idle_seconds=self._settings.session_idle_seconds,
            max_seconds=self._settings.session_max_seconds,
            system=system,
            images=images,
            owner=owner,
        )

        async def write() -> Session:
            await self._journal.add(session.kept_ahead(), contents)
            return self._take_in(session)

        return await self._in_a_place_of(owner, write())

    async def fork(self, session_id: str) -> Session:
        """Open another session that shares everything recorded so far, and journal it.

        Raises:
            TooManySessions: as many as allowed are open.
            as ``get``; InsufficientStorage.
        """
        owner = self.get(session_id).owner
        await self._make_room(owner)

        async def write() -> Session:
            async with self._changing(session_id):
                session = self.get(session_id).forked(
                    now=self._clock(),
                    idle_seconds=self._settings.session_idle_seconds,
                    max_seconds=self._settings.session_max_seconds,
                )
                # The images' bytes are in the journal for as long as the parent is.
                await self._journal.add(session.kept_ahead(), {})
            return self._take_in(session)

        return await self._in_a_place_of(owner, write())

    def check_room(self, owner: str | None = None) -> None:
        """Refuse early what ``open`` would refuse after the images were fetched.

        Raises:
            TooManySessions: as many as allowed are open.
        """
        if not self._expiries.any_due(self._clock()):  # else one may be over: open() looks closer
            self._room.check(owner)

    def owned(self, session_id: str, client: str | None) -> Session:
        """The newest record of an open session, for the client that opened it. To all others it is
        as if it had never been, also once it has ended.

        Raises:
            MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired.
        """
        known = self._open.get(check_session_id(session_id)) or self._ended.get(session_id)
        if known is None or known.owner != client:
            raise _unknown()
        return self.get(session_id)

    def get(self, session_id: str) -> Session:
        """The newest record of an open session.

        Raises:
            MalformedSessionId, SessionNotFound, SessionClosed, SessionExpired.
        """
        session = self._open.get(check_session_id(session_id))
        if session is None:
            raise self._absent(session_id)
        if session.is_over(self._clock(), in_use=session_id in self._num_users):
            raise _expired()
        return session

    def begin_use(self, session_id: str) -> None:
        """A prompt is at work or waits: the session does not expire for lack of use."""
        self._num_users[session_id] = self._num_users.get(session_id, 0) + 1

    def end_use(self, session_id: str) -> None:
        """Undo one ``begin_use``; idle time counts again, from the last renewal."""
        self._num_users[session_id] -= 1
        if not self._num_users[session_id]:
            del self._num_users[session_id]

    def renewed(self, session: Session) -> Session:
        """The session as a use just now would leave it; changes nothing."""
        return session.used(self._clock())

    async def touch(self, session_id: str) -> Session:
        """Renew a session's lifetime; once this returns it may be announced.

        Writes only what the journal's lifetime, which runs ahead, does not cover yet.

        Raises:
            as ``get``; InsufficientStorage.
        """
        renewed = self.renewed(self.get(session_id))
        if renewed.expires_at <= self._journalled_until[session_id]:
            return self._renew(renewed)

        async def write() -> Session:
            await self._journal.touch(renewed.kept_ahead())
            self._note_journalled(renewed)
            return self._renew(renewed)

        return await to_the_end(write())

    async def append(
        self,
        session: Session,
        turn: SessionTurn,
        *,
        images: tuple[SessionImage, ...],
        contents: Mapping[str, bytes],
        system: str | None,
    ) -> Session:
        """Record a finished turn on ``session``, as ``get`` gave it when the turn began.

        Raises:
            SessionClosed, SessionExpired: the session ended meanwhile.
            InsufficientStorage: the journal has no room.
        """

        async def write() -> Session:
            async with self._changing(session.id):
                current = self._open.get(session.id)
                if current is None:
                    raise self._absent(session.id)
                # Turns of one session follow one another; only lifetimes may have moved since.
                assert len(current.turns) == len(session.turns), "two turns of one session at once"
                after = current.with_turn(turn, images=images, system=system, now=self._clock())
                await self._journal.append(current, after.kept_ahead(), contents)
                return self._replace(after)

        return await to_the_end(write())

    async def rewind(self, session_id: str, num_turns: int) -> Session:
        """Take back a session's last turns and the images that came with them.

        Raises:
            TooFewTurns: it has not so many.
            as ``get``; InsufficientStorage.
        """
        self.get(session_id)
        self.begin_use(session_id)  # what renews a lifetime must not be overtaken by its end

        async def write() -> Session:
            try:
                async with self._changing(session_id):
                    before = self.get(session_id)
                    if num_turns > len(before.turns):
                        raise TooFewTurns(
                            f"{num_turns} turns cannot be taken back: the session has "
                            f"{len(before.turns)}. describe_session lists them."
                        )
                    after = before.rewound(num_turns, self._clock())
                    await self._journal.rewind(before, after.kept_ahead())
                    return self._replace(after)
            finally:
                self.end_use(session_id)

        return await to_the_end(write())

    async def end(self, session_id: str, state: SessionState = SessionState.CLOSED) -> Session:
        """End a session and remove what it held.

        Raises:
            as ``get``; InsufficientStorage.
        """
        session = self.get(session_id)
        await self._end(session, state)
        return session

    async def sweep(self) -> tuple[str, ...]:
        """End the sessions whose time has come, forget old tombstones; gives the ended ids.

        Looks only at sessions that came up, not at all of them. They end together: after a night
        out of service there may be thousands, and each alone would cost a flush of the disk.

        Those that could not be ended are tried again the next time.

        Raises:
            InsufficientStorage: not one of them could be ended.
        """
        now = self._clock()
        over = self._take_over(now)
        try:
            outcomes = await asyncio.gather(
                *(self._end(session, SessionState.EXPIRED) for session in over),
                return_exceptions=True,
            )
        finally:
            for session in over:
                if session.id in self._open:
                    self._expiries.add(session)
        await self._forget(now - self._settings.tombstone_seconds)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if over and len(failures) == len(over):
            raise failures[0]
        return tuple(
            session.id for session, outcome in zip(over, outcomes, strict=True) if outcome is None
        )

    async def read_image(self, digest: str, owner: str | None = None) -> bytes:
        """The encoded bytes of an image that an open session of this owner has."""
        return await self._journal.read_image(digest, owner)

    def check_integrity(self) -> None:
        """Assert what holds between any two steps of the event loop. Walks all: for tests."""
        assert self._journalled_until.keys() == self._open.keys()
        self._room.check_integrity(session.owner for session in self._open.values())
        assert all(count > 0 for count in self._num_users.values())
        for session_id, session in self._open.items():
            assert session.id == session_id
            assert self._ended.get(session_id) is None, "who has ended is open no more"
            assert session.expires_at <= session.max_expires_at
            assert session.expires_at <= self._journalled_until[session_id], "told, then kept"
        self._ended.check_integrity()

    # --- inside ---------------------------------------------------------------------------------

    def _take_over(self, now: float) -> list[Session]:
        """The sessions whose time has come; the others that came up are looked at again later."""
        over: list[Session] = []
        for session_id in self._expiries.take_due(now):
            session = self._open.get(session_id)
            if session is None:
                continue
            in_use = session_id in self._num_users
            if session.is_over(now, in_use=in_use):
                over.append(session)
            else:
                self._expiries.add(session, not_before=now + 1.0 if in_use else 0.0)
        return over

    async def _make_room(self, owner: str | None) -> None:
        """End what is over if there is no place else.

        Raises:
            TooManySessions: nothing is over.
        """
        try:
            self._room.check(owner)
        except TooManySessions:
            await self.sweep()
            self._room.check(owner)

    async def _in_a_place_of(self, owner: str | None, write: Awaitable[Session]) -> Session:
        """Have a new session written; it has its place from now on, before anybody else asks."""
        self._room.add(owner)

        async def written() -> Session:
            try:
                return await write
            finally:  # what has been taken in counts by itself
                self._room.remove(owner)

        return await to_the_end(written())

    def _changing(self, session_id: str) -> asyncio.Lock:
        """Held while a session's conversation changes in the journal and then in the table, and
        while it is copied: whoever holds it finds the two alike."""
        return self._changes.setdefault(session_id, asyncio.Lock())

    def _take_in(self, session: Session) -> Session:
        """Add a session that has been journalled."""
        self._put(session)
        self._room.add(session.owner)
        self._note_journalled(session)
        self._expiries.add(session)
        return session

    def _replace(self, after: Session) -> Session:
        """Take over a change that has been journalled."""
        # A renewal may have been announced while it was written: it stays true.
        self._put(after.used(self._open[after.id].last_used_at))
        self._note_journalled(after)
        return after

    def _put(self, session: Session) -> None:
        self._open[session.id] = session

    def _note_journalled(self, session: Session) -> None:
        if session.id in self._open:
            self._journalled_until[session.id] = session.kept_ahead().expires_at

    def _renew(self, renewed: Session) -> Session:
        """Take over the times of ``renewed``; the rest may have moved on while it was written."""
        current = self._open.get(renewed.id)
        if current is None:
            raise self._absent(renewed.id)
        self._put(current.used(renewed.last_used_at))
        return self._open[renewed.id]

    async def _end(self, session: Session, state: SessionState) -> None:
        tombstone = end_session(session, state, self._clock())

        async def write() -> None:
            async with self._changing(session.id):
                await self._journal.end(tombstone)
                self._journalled_until.pop(session.id, None)
                if self._open.pop(session.id, None) is not None:
                    self._room.remove(session.owner)
                    self._ended.add(tombstone)
                    self._expiries.drop_stale(self._open, len(self._open))

        await to_the_end(write())

    async def _forget(self, ended_before: float) -> None:
        dropped_before = self._ended.drop(ended_before)
        if dropped_before is not None:
            await self._journal.forget(dropped_before)

    def _absent(self, session_id: str) -> SessionClosed | SessionExpired | SessionNotFound:
        tombstone = self._ended.get(session_id)
        if tombstone is None:
            return _unknown()
        if tombstone.state is SessionState.CLOSED:
            return SessionClosed("This session was closed. Open a new one.")
        return _expired()


def _unknown() -> SessionNotFound:
    return SessionNotFound(
        "No such session here. Open one with open_session and use the id that it returns."
    )


def _expired() -> SessionExpired:
    return SessionExpired(
        "This session has expired. Open a new one; each use renews a session until its maximum age."
    )


async def to_the_end(change: Awaitable[T]) -> T:
    """Let a change of journal and table finish together, even if the caller is cancelled."""
    task = asyncio.ensure_future(change)
    # If the caller has gone, nobody else sees to a failure: the change has simply not happened.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)
