"""SQLite in WAL mode: the one place that opens a database.

Every package that stores something brings its own tables as numbered migrations; `open_store` applies the missing
ones in one transaction. synchronous=FULL, so that what is committed survives a power cut; a simulation, which holds
nobody's budget, does not wait for the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from fedinfer.errors import StoreError
from fedinfer.private_files import only_owner

Migrations = Sequence[str]
"""SQL scripts of one package, oldest first; never edited once released, only appended."""


class Durability(Enum):
    """What a commit survives."""

    POWER = "FULL"
    """The machine may lose power at once afterwards."""
    PROCESS = "NORMAL"
    """The process may be killed; after a power cut the newest commits may be missing. For simulations."""


def open_store(
    path: Path, room: str, migrations: Migrations, durability: Durability = Durability.POWER
) -> sqlite3.Connection:
    """Open the database at `path`, or make it for its owner alone, and bring the tables of `room` up to date.

    Args:
        path: file; its folder must exist.
        room: name of the package, under which the version of its tables is kept.
        migrations: all its SQL scripts, those already applied included.
        durability: what a commit survives.

    Raises:
        StoreError: when the file cannot be opened or was written by a newer version.
    """
    try:
        os.close(only_owner(str(path), os.O_CREAT | os.O_WRONLY))  # its -wal and -shm get the same mode
        connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={durability.value}")
        connection.execute("PRAGMA foreign_keys=ON")
        _migrate(connection, room, migrations)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}", hint="check the folder's permissions and free space") from error
    return connection


def read_store(path: Path) -> sqlite3.Connection:
    """Open an existing database for reading only: nothing is created, migrated or changed.

    Args:
        path: of the database file.

    Raises:
        StoreError: when there is no such database.
    """
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=30.0, uri=True)
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}", hint="is it the path of an existing database?") from error
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One write transaction: all of it or nothing. Takes the write lock at once, so read-check-write is safe.

    Args:
        connection: from `open_store`, in no transaction.

    Raises:
        StoreError: when the database refuses, for instance on a full disk.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"database: {error}", hint="check free space and permissions") from error


def _migrate(connection: sqlite3.Connection, room: str, migrations: Migrations) -> None:
    with transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (room TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )
        row = connection.execute("SELECT version FROM schema_version WHERE room = ?", (room,)).fetchone()
        version = int(row[0]) if row else 0
        if version > len(migrations):
            raise StoreError(f"{room} tables have version {version}, this program knows {len(migrations)}")
        for script in migrations[version:]:
            for statement in filter(None, (part.strip() for part in script.split(";"))):
                connection.execute(statement)
        connection.execute(
            "INSERT INTO schema_version VALUES (?, ?) ON CONFLICT(room) DO UPDATE SET version = excluded.version",
            (room, len(migrations)),
        )
