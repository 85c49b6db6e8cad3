"""The tables of rollout.sqlite."""

from __future__ import annotations

import hashlib
import json
import sqlite3

ROLLOUT_MIGRATIONS = (
    """
    CREATE TABLE rollout (
        name TEXT PRIMARY KEY,
        number INTEGER NOT NULL UNIQUE,
        state BLOB NOT NULL,
        changed TEXT NOT NULL
    );
    CREATE TABLE rollout_ack (
        rollout TEXT NOT NULL REFERENCES rollout(name),
        wave INTEGER NOT NULL,
        device TEXT NOT NULL,
        problem TEXT NOT NULL,
        PRIMARY KEY (rollout, wave, device)
    );
    CREATE TABLE rollout_log (
        seq INTEGER PRIMARY KEY,
        rollout TEXT NOT NULL,
        line TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE rollout_request (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        digest TEXT NOT NULL UNIQUE,
        data BLOB NOT NULL,
        received TEXT NOT NULL,
        standing TEXT NOT NULL,
        why TEXT NOT NULL
    );
    """,
)
WENT_BACK = -1
"""In place of a wave: acknowledgements of a rollback."""
BOUND = 2
"""Format of rollouts whose acknowledgements are bound to the log; those of the format before are only counted in it."""
APPEND_ONLY = """
    CREATE TRIGGER IF NOT EXISTS rollout_log_{verb} BEFORE {verb} ON rollout_log {when}
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
REFUSED = {
    "UPDATE": "",
    "DELETE": "",
    # INSERT OR REPLACE deletes without firing the trigger for DELETE.
    "INSERT": "WHEN NEW.seq <= (SELECT COALESCE(MAX(seq), 0) FROM rollout_log)",
}


def acknowledged(db: sqlite3.Connection, rollout: str, wave: int) -> tuple[int, int, str]:
    """What devices answered in a wave.

    Args:
        db: the database.
        rollout: name.
        wave: counted from 0, or WENT_BACK.

    Returns:
        Number of problems, of answers, and the SHA-256 of all of them, 64 hexadecimal digits.
    """
    query = "SELECT device, problem FROM rollout_ack WHERE rollout = ? AND wave = ? ORDER BY device"
    rows = [[device, problem] for device, problem in db.execute(query, (rollout, wave))]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return sum(bool(problem) for _, problem in rows), len(rows), digest
