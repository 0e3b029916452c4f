"""The table of open sessions: limits and lifetimes in memory, every change journalled first."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    SessionClosed,
    SessionExpired,
    SessionNotFound,
    TooManySessions,
)
from vlm_sessions.sessions.journal import Journal
from vlm_sessions.sessions.session import (
    Session,
    SessionImage,
    SessionState,
    SessionTurn,
    Tombstone,
    check_session_id,
    end_session,
    open_session,
)

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
        self._num_opening = 0
        self._ended: dict[str, Tombstone] = {}
        self._endings: deque[Tombstone] = deque()  # the same, oldest first
        # (expires_at when pushed, id): one entry for each session, corrected when it comes up.
        self._expiries: list[tuple[float, str]] = []
        self._num_users: dict[str, int] = {}  # id -> prompts at work or waiting
        self._journalled_until: dict[str, float] = {}  # id -> expires_at in the journal

    async def start(self) -> None:
        """Open the journal and take up what it holds; sessions whose time has passed are ended."""
        await self._journal.open()
        contents = await self._journal.load()
        for session in contents.sessions:
            self._put(session)
            self._journalled_until[session.id] = session.expires_at
            heapq.heappush(self._expiries, (session.expires_at, session.id))
        for tombstone in contents.tombstones:
            self._bury(tombstone)
        await self.sweep()

    async def close(self) -> None:
        await self._journal.close()

    @property
    def num_open(self) -> int:
        return len(self._open)

    async def open(
        self,
        *,
        system: str | None,
        images: tuple[SessionImage, ...],
        contents: Mapping[str, bytes],
    ) -> Session:
        """Open a session and journal it. ``contents``: digest -> encoded bytes of ``images``.

        Raises:
            TooManySessions: as many as allowed are open.
            InsufficientStorage: the journal has no room.
        """
        if len(self._open) + self._num_opening >= self._settings.max_sessions:
            await self.sweep()
        self.check_room()
        session = open_session(
            now=self._clock(),
            idle_seconds=self._settings.session_idle_seconds,
            max_seconds=self._settings.session_max_seconds,
            system=system,
            images=images,
        )

        self._num_opening += 1

        async def write() -> Session:
            try:
                await self._journal.add(session.kept_ahead(), contents)
            finally:
                self._num_opening -= 1
            self._put(session)
            self._note_journalled(session)
            heapq.heappush(self._expiries, (session.expires_at, session.id))
            return session

        return await _to_the_end(write())

    def check_room(self) -> None:
        """Refuse early what ``open`` would refuse after the images were fetched.

        Raises:
            TooManySessions: as many as allowed are open.
        """
        if len(self._open) + self._num_opening < self._settings.max_sessions:
            return
        now = self._clock()
        if self._expiries and self._expiries[0][0] <= now:
            return  # one of them may be over: open() looks closer
        raise TooManySessions(
            f"{self._settings.max_sessions} sessions are open, which is the limit. Close one, or "
            "retry later; VLM_MAX_SESSIONS raises the limit."
        )

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
        """Undo one ``begin_use``; idle time counts from here on, whatever came of the prompt."""
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

        return await _to_the_end(write())

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
        current = self._open.get(session.id)
        if current is None:
            raise self._absent(session.id)
        # Turns of one session follow one another; only lifetimes may have moved since.
        assert len(current.turns) == len(session.turns), "two turns of one session at once"
        after = current.with_turn(turn, images=images, system=system, now=self._clock())

        async def write() -> Session:
            await self._journal.append(current, after.kept_ahead(), contents)
            if after.id in self._open:
                self._put(after)
                self._note_journalled(after)
            return after

        return await _to_the_end(write())

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

        Looks only at sessions that came up, not at all of them.
        """
        now = self._clock()
        ended: list[str] = []
        try:
            while self._expiries and self._expiries[0][0] <= now:
                _, session_id = heapq.heappop(self._expiries)
                session = self._open.get(session_id)
                if session is None:
                    continue
                in_use = session_id in self._num_users
                if session.is_over(now, in_use=in_use):
                    try:
                        await self._end(session, SessionState.EXPIRED)
                    except BaseException:
                        heapq.heappush(self._expiries, (session.expires_at, session_id))
                        raise
                    ended.append(session_id)
                else:
                    due = max(session.expires_at, now + 1.0) if in_use else session.expires_at
                    heapq.heappush(self._expiries, (due, session_id))
        finally:
            await self._forget(now - self._settings.tombstone_seconds)
        return tuple(ended)

    async def read_image(self, digest: str) -> bytes:
        """The encoded bytes of an image that an open session has."""
        return await self._journal.read_image(digest)

    # --- inside ---------------------------------------------------------------------------------

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
            await self._journal.end(tombstone)
            self._journalled_until.pop(session.id, None)
            if self._open.pop(session.id, None) is not None:
                self._bury(tombstone)

        await _to_the_end(write())

    def _bury(self, tombstone: Tombstone) -> None:
        self._ended[tombstone.session_id] = tombstone
        self._endings.append(tombstone)

    async def _forget(self, ended_before: float) -> None:
        num_forgotten = 0
        while self._endings and self._endings[0].ended_at < ended_before:
            self._ended.pop(self._endings.popleft().session_id, None)
            num_forgotten += 1
        if num_forgotten:
            await self._journal.forget(ended_before)

    def _absent(self, session_id: str) -> SessionClosed | SessionExpired | SessionNotFound:
        tombstone = self._ended.get(session_id)
        if tombstone is None:
            return SessionNotFound(
                "No such session here. Open one with open_session and use the id that it returns."
            )
        if tombstone.state is SessionState.CLOSED:
            return SessionClosed("This session was closed. Open a new one.")
        return _expired()


def _expired() -> SessionExpired:
    return SessionExpired(
        "This session has expired. Open a new one; each use renews a session until its maximum age."
    )


async def _to_the_end(change: Awaitable[T]) -> T:
    """Let a change of journal and table finish together, even if the caller is cancelled."""
    return await asyncio.shield(asyncio.ensure_future(change))
