"""Sees every change of the record, when it happens, and asks who wanted it.

After each step of the event loop the table of open sessions is compared with what it was. Whatever
is different must be what some open request asked for: one turn more, by a client that has taken the
whole of the right answer and was told nothing else; turns less; a new session; one that is gone.
What comes out of the journal after a restart is compared in the same way with what was there
before, so that a change which was under way when the service died may be there or not, but never by
half.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tests.simulation.expected import Oracle
from tests.simulation.requests import Asking, Closing, Forking, Opening, Request, Rewinding
from tests.simulation.scene import Scene
from vlm_sessions.protocol.schema import Lifetime
from vlm_sessions.sessions.journal import DATABASE_NAME
from vlm_sessions.sessions.session import Session, SessionState

MOMENT_SECONDS = 30.0
"""What is decided by the clock is carried out within this time, however slow the disk is."""

R = TypeVar("R", bound=Request)


class Witness:
    """What all sessions are, and must be."""

    def __init__(self, scene: Scene, oracle: Oracle) -> None:
        self.sessions: Mapping[str, Session] = {}
        """As they were when they were last seen."""
        self.num_turns = 0
        """That have been recorded."""
        self._requests = scene.requests
        self._wall = scene.wall
        self._oracle = oracle
        self._told: dict[str, float] = {}
        """session id -> until when a client was told that it lives"""
        self._asked: dict[tuple[str, str], Asking] = {}
        """(session id, text) -> the prompt; no two of a session have one text"""

    def ask(self, request: Asking) -> None:
        """A client asks for something that may come to be recorded."""
        if request.session_id is not None:
            self._asked[request.session_id, request.text] = request

    def tell(self, lifetime: Lifetime) -> None:
        """A client is told how long a session lives."""
        told = self._told.get(lifetime.session_id, 0.0)
        self._told[lifetime.session_id] = max(told, lifetime.expires_at)

    # --- looking --------------------------------------------------------------------------------

    def look(self, table: Mapping[str, Session], *, restarted: bool = False) -> list[str]:
        """Compare all sessions with what they were; see that every difference has a reason. Says
        what is different.

        Raises:
            AssertionError: it has none.
        """
        before, news = self.sessions, []
        for session_id, after in table.items():
            known = before.get(session_id)
            if known is None:
                self._explain_new(after, restarted=restarted)
                news.append(f"{session_id} is open")
            elif known is not after:
                news.append(self._explain_change(known, after, restarted=restarted))
        if len(table) - sum(each.endswith("is open") for each in news) < len(before):
            for session_id, known in before.items():
                if session_id not in table:
                    self._explain_end(known)
                    news.append(f"{session_id} has ended")
        if news:
            self.sessions = dict(table)
        return news

    def _explain_change(self, before: Session, after: Session, *, restarted: bool) -> str:
        if restarted:
            assert after.expires_at >= self._told.get(after.id, 0.0), "what was announced is kept"
        else:
            assert after.expires_at >= before.expires_at, "a lifetime never shrinks"
        if len(after.turns) > len(before.turns):
            self._explain_turn(before, after)
        elif len(after.turns) < len(before.turns):
            self._explain_rewind(before, after)
        else:
            assert _without_times(after) == _without_times(before), "nobody asked for this"
        return f"{after.id} has {len(after.turns)} turns"

    def _explain_new(self, session: Session, *, restarted: bool) -> None:
        digests = [image.digest for image in session.images]
        for opening in self._open(Opening):
            asked = [picture.digest for picture in opening.pictures]
            if not session.turns and opening.system == session.system and asked == digests:
                return
        for fork in self._open(Forking):
            parent = self.sessions.get(fork.session_id or "")
            if parent is None:
                continue
            # Of a parent that was changing as well when the service died, either state is right.
            shared = min(len(parent.turns), len(session.turns)) if restarted else None
            is_alike = parent.turns[:shared] == session.turns[:shared]
            if is_alike and session.opening_system == parent.opening_system:
                return
        raise AssertionError(f"nobody opened session {session.id}")

    def _explain_end(self, before: Session) -> None:
        for key in [key for key in self._asked if key[0] == before.id]:
            self._asked.pop(key).is_taken_back = True
        told = self._told.pop(before.id, 0.0)
        if any(self._open(Closing, before.id)):
            return
        until = max(before.expires_at, told)
        latest = self._wall.latest_within(MOMENT_SECONDS)
        assert latest >= until, (
            f"a session ended before its time: at {latest:.3f}, told {told:.3f}, "
            f"recorded {before.expires_at:.3f}, at most {before.max_expires_at:.3f}"
        )

    def _explain_rewind(self, before: Session, after: Session) -> None:
        num_turns = len(before.turns) - len(after.turns)
        assert any(r.num_turns == num_turns for r in self._open(Rewinding, before.id))
        assert after.turns == before.turns[: len(after.turns)]
        assert after.turns or after.system == after.opening_system
        for turn in before.turns[len(after.turns) :]:
            request = self._asked.pop((before.id, turn.prompt), None)
            if request is not None:  # else it was asked of the session that was forked
                request.is_taken_back = True
        _check_images(after)

    def _explain_turn(self, before: Session, after: Session) -> None:
        assert after.turns[:-1] == before.turns, "turns are added at the end, one at a time"
        turn = after.turns[-1]
        request = self._asked.get((before.id, turn.prompt))
        assert request is not None, "nobody asked this"
        assert request.is_open, "its client has had its reply, or has left"
        assert not request.was_denied, "its client was told that it left no trace"
        assert not request.is_recorded, "it is recorded once"
        assert "".join(request.deltas) == turn.answer, "its client has not taken the whole answer"
        assert turn == self._oracle.turn(before, request), "an undisturbed run says otherwise"
        _check_images(after)
        request.is_recorded = True
        self.num_turns += 1

    # --- replies --------------------------------------------------------------------------------

    def check_on_disk(self, request: Asking, directory: Path) -> None:
        """See that an answer of which the client was just told is in the journal.

        Raises:
            AssertionError: it is not.
        """
        assert request.is_recorded, "an answer is recorded before its client is told"
        assert request.session_id is not None
        row = _on_disk(
            directory,
            "SELECT answer FROM turns WHERE session_id = ? AND prompt = ?",
            (request.session_id, request.text),
        )
        if row is not None:
            assert row[0] == "".join(request.deltas)
        elif not request.is_taken_back:  # then it is just being taken back
            session = self.sessions[request.session_id]
            is_over = self._wall.latest_within(MOMENT_SECONDS) >= session.expires_at
            is_wanted = any(self._open(Rewinding, session.id)) or any(
                self._open(Closing, session.id)
            )
            assert is_over or is_wanted, "an answer is written before its client is told"

    def check_session_on_disk(self, session_id: str, directory: Path) -> None:
        """See that a session of which a client was just told is in the journal."""
        row = _on_disk(directory, "SELECT state FROM sessions WHERE id = ?", (session_id,))
        assert row is not None, "a session is written before its client is told"
        assert session_id in self.sessions or row[0] != SessionState.OPEN

    def _open(self, kind: type[R], session_id: str | None = None) -> Iterator[R]:
        for request in self._requests.values():
            if isinstance(request, kind) and session_id in (None, request.session_id):
                yield request


def _on_disk(directory: Path, query: str, values: tuple[object, ...]) -> tuple[str] | None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        row: tuple[str] | None = connection.execute(query, values).fetchone()
        return row


def _without_times(session: Session) -> Session:
    return replace(session, last_used_at=0.0, expires_at=0.0)


def _check_images(session: Session) -> None:
    """The images of a session are those of its turns, or those that it was opened with."""
    held = [image.digest for image in session.images]
    if session.turns:
        assert held == [digest for turn in session.turns for digest in turn.digests]
    else:
        assert len(held) == session.num_opening_images
