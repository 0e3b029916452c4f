"""What is written to the journal and read from it: plain functions over a SQLite connection.

They run on the journal's own thread, inside a transaction that it opened. Each can be run again
after a rollback.

An image's bytes are stored once for all sessions of one owner, under the image's digest with the
owner's name before it. Stored once for everybody, an opening would be quicker where somebody else
has shown the same picture, and so would tell.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from vlm_sessions.errors import SessionClosed
from vlm_sessions.sessions.session import (
    ImagePlace,
    Session,
    SessionImage,
    SessionState,
    SessionTurn,
    Tombstone,
)


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a journal holds, but for the images' bytes."""

    sessions: tuple[Session, ...]
    tombstones: tuple[Tombstone, ...]


def insert_session(
    connection: sqlite3.Connection, session: Session, contents: Mapping[str, bytes]
) -> None:
    """Add a session that was just opened, or forked from one that is open.

    Args:
        contents: digest -> encoded bytes of its images, but for those that a session of the same
            owner is sure to have.
    """
    connection.execute(
        "INSERT INTO sessions (id, model, state, created_at, last_used_at, expires_at, "
        "max_expires_at, idle_seconds, system, opening_system, num_opening_images, owner) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session.id,
            session.model,
            SessionState.OPEN.value,
            session.created_at,
            session.last_used_at,
            session.expires_at,
            session.max_expires_at,
            session.idle_seconds,
            session.system,
            session.opening_system,
            session.num_opening_images,
            session.owner,
        ),
    )
    _insert_images(connection, session, 0, contents)
    _insert_turns(connection, session, 0)


def insert_turn(
    connection: sqlite3.Connection,
    before: Session,
    after: Session,
    contents: Mapping[str, bytes],
) -> None:
    """Add what ``after`` has and ``before`` had not: one turn, its images, the renewed lifetime.

    Raises:
        SessionClosed: the session ended meanwhile.
    """
    update_lifetime(connection, after)
    _update_system(connection, before, after)
    _insert_images(connection, after, len(before.images), contents)
    _insert_turns(connection, after, len(before.turns))


def delete_turns(connection: sqlite3.Connection, before: Session, after: Session) -> None:
    """Remove what ``before`` has and ``after`` has not: its last turns and their images.

    Raises:
        SessionClosed: the session ended meanwhile.
    """
    update_lifetime(connection, after)
    _update_system(connection, before, after)
    connection.execute(
        "DELETE FROM turns WHERE session_id = ? AND number >= ?", (after.id, len(after.turns))
    )
    _delete_images(connection, after.id, len(after.images))


def update_lifetime(connection: sqlite3.Connection, session: Session) -> None:
    """Write the times of ``session``.

    Raises:
        SessionClosed: the session ended meanwhile.
    """
    cursor = connection.execute(
        "UPDATE sessions SET last_used_at = ?, expires_at = ? WHERE id = ? AND state = ?",
        (session.last_used_at, session.expires_at, session.id, SessionState.OPEN.value),
    )
    if cursor.rowcount == 0:
        raise _ended()


def end_session(connection: sqlite3.Connection, tombstone: Tombstone) -> None:
    """Remove a session's conversation and the images that nobody else uses; keep its tombstone."""
    _delete_images(connection, tombstone.session_id, 0)
    connection.execute("DELETE FROM turns WHERE session_id = ?", (tombstone.session_id,))
    connection.execute(
        "UPDATE sessions SET state = ?, system = NULL, opening_system = NULL, ended_at = ? "
        "WHERE id = ? AND state = ?",
        (
            tombstone.state.value,
            tombstone.ended_at,
            tombstone.session_id,
            SessionState.OPEN.value,
        ),
    )


def delete_tombstones(connection: sqlite3.Connection, ended_before: float) -> None:
    connection.execute("DELETE FROM sessions WHERE ended_at < ?", (ended_before,))


def read_image(connection: sqlite3.Connection, digest: str, owner: str | None) -> bytes:
    """The encoded bytes of an image.

    Raises:
        SessionClosed: no open session of this owner has it; the one that had ended meanwhile.
    """
    row = connection.execute(
        "SELECT content FROM images WHERE digest = ?", (_stored_name(digest, owner),)
    ).fetchone()
    if row is None:
        raise _ended()
    content: bytes = row[0]
    return content


def read_all(connection: sqlite3.Connection) -> Contents:
    """Every open session and every tombstone."""
    images: dict[str, list[SessionImage]] = {}
    for session_id, name, *fields in connection.execute(
        "SELECT session_id, digest, width, height, num_tokens, format FROM session_images "
        "ORDER BY session_id, position"
    ):
        images.setdefault(session_id, []).append(SessionImage(_digest_of(name), *fields))
    turns: dict[str, list[SessionTurn]] = {}
    for row in connection.execute("SELECT * FROM turns ORDER BY session_id, number"):
        turns.setdefault(row[0], []).append(_turn(row))
    sessions = tuple(
        replace(
            Session(*row), images=tuple(images.get(row[0], ())), turns=tuple(turns.get(row[0], ()))
        )
        for row in connection.execute(
            "SELECT id, model, created_at, last_used_at, expires_at, max_expires_at, idle_seconds, "
            "system, opening_system, num_opening_images, owner FROM sessions WHERE state = ?",
            (SessionState.OPEN.value,),
        )
    )
    tombstones = tuple(
        Tombstone(session_id, SessionState(state), ended_at, owner)
        for session_id, state, ended_at, owner in connection.execute(
            "SELECT id, state, ended_at, owner FROM sessions WHERE state <> ? ORDER BY ended_at",
            (SessionState.OPEN.value,),
        )
    )
    return Contents(sessions, tombstones)


def _ended() -> SessionClosed:
    return SessionClosed("The session ended while the prompt ran. Open a new one.")


def _update_system(connection: sqlite3.Connection, before: Session, after: Session) -> None:
    if before.system != after.system:
        connection.execute("UPDATE sessions SET system = ? WHERE id = ?", (after.system, after.id))


def _insert_turns(connection: sqlite3.Connection, session: Session, first: int) -> None:
    connection.executemany(
        "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                session.id,
                number,
                turn.prompt,
                msgspec.msgpack.encode(turn.images),
                msgspec.msgpack.encode(turn.prompt_tokens),
                msgspec.msgpack.encode(turn.answer_tokens),
                turn.answer,
                turn.finish_reason,
            )
            for number, turn in enumerate(session.turns[first:], start=first)
        ),
    )


def _delete_images(connection: sqlite3.Connection, session_id: str, first: int) -> None:
    """Remove a session's images from position ``first`` on, and the bytes that nobody else uses."""
    place = (session_id, first)
    digests = connection.execute(
        "SELECT DISTINCT digest FROM session_images WHERE session_id = ? AND position >= ?", place
    ).fetchall()
    connection.execute("DELETE FROM session_images WHERE session_id = ? AND position >= ?", place)
    connection.executemany(
        "DELETE FROM images WHERE digest = ?1 "
        "AND NOT EXISTS (SELECT 1 FROM session_images WHERE digest = ?1)",
        digests,
    )


def _insert_images(
    connection: sqlite3.Connection,
    session: Session,
    first: int,
    contents: Mapping[str, bytes],
) -> None:
    new = session.images[first:]
    # Bytes without a user would never be removed.
    assert contents.keys() <= {image.digest for image in new}
    connection.executemany(
        "INSERT INTO images VALUES (?, ?) ON CONFLICT DO NOTHING",
        ((_stored_name(digest, session.owner), content) for digest, content in contents.items()),
    )
    connection.executemany(
        "INSERT INTO session_images VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                session.id,
                position,
                _stored_name(image.digest, session.owner),
                image.width,
                image.height,
                image.num_tokens,
                image.format,
            )
            for position, image in enumerate(new, start=first)
        ),
    )


def _stored_name(digest: str, owner: str | None) -> str:
    """What an image is called in the journal."""
    return digest if owner is None else f"{owner}:{digest}"


def _digest_of(stored_name: str) -> str:
    return stored_name.rpartition(":")[2]


def _turn(row: tuple[str, int, str, bytes, bytes, bytes, str, str]) -> SessionTurn:
    _, _, prompt, images, prompt_tokens, answer_tokens, answer, finish_reason = row
    return SessionTurn(
        prompt=prompt,
        images=msgspec.msgpack.decode(images, type=tuple[ImagePlace, ...]),
        prompt_tokens=msgspec.msgpack.decode(prompt_tokens, type=tuple[int, ...]),
        answer_tokens=msgspec.msgpack.decode(answer_tokens, type=tuple[int, ...]),
        answer=answer,
        finish_reason=finish_reason,
    )
