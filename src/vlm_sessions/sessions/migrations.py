"""The journal's tables, and how an older journal becomes a current one.

The version stands in SQLite's ``user_version``. To change the tables, append a script; never edit
one that has been released.
"""

from __future__ import annotations

import sqlite3

from vlm_sessions.errors import ConfigError

# Token lists and image places are MessagePack. An image's bytes are stored once, whoever uses them;
# its users are the rows of session_images, and the last one to go takes the bytes along.
_INITIAL = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_used_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    max_expires_at REAL NOT NULL,
    idle_seconds REAL NOT NULL,
    system TEXT,
    num_opening_images INTEGER NOT NULL,
    ended_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE images (
    digest TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT;

CREATE TABLE session_images (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL REFERENCES images (digest),
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL,
    format TEXT NOT NULL,
    PRIMARY KEY (session_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_images_by_digest ON session_images (digest);

CREATE TABLE turns (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    images BLOB NOT NULL,
    prompt_tokens BLOB NOT NULL,
    answer_tokens BLOB NOT NULL,
    answer TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    PRIMARY KEY (session_id, number)
) STRICT;
"""

# Nobody knows of older sessions whether their system text came with the first turn.
_OPENING_SYSTEM = """
ALTER TABLE sessions ADD COLUMN opening_system TEXT;
UPDATE sessions SET opening_system = system;
"""

# Older sessions were opened without API keys: they have no owner. Nor have images to be renamed:
# from now on those of an owner have a name of their own (database.py).
_OWNER = """
ALTER TABLE sessions ADD COLUMN owner TEXT;
"""

MIGRATIONS: tuple[str, ...] = (_INITIAL, _OPENING_SYSTEM, _OWNER)
"""``MIGRATIONS[n]`` turns version ``n`` into version ``n + 1``."""


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the journal to the newest version, one transaction for each step.

    Raises:
        ConfigError: the journal was written by a newer release.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ConfigError(
            f"The journal has version {version}, this release knows versions up to "
            f"{len(migrations)}. Start the newer release again, or set VLM_STATE_DIR to another "
            "directory."
        )
    for number in range(version, len(migrations)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {migrations[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        )
