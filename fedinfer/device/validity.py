"""What a device remembers about its authority, so that neither a server nor a clock can undo it.

The newest revocation list that was believed, and the latest time. A device whose clock does not survive a power cut
wakes up in the past, where no certificate has expired; it goes by the latest time that it knew instead. That time is
written down only when a list that had not ended was believed at it, so a clock that once ran ahead can take a device
no further than the end of a list.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fedinfer.inference import latest_known
from fedinfer.secagg import Validation, check_not_older, read_revocations, seconds_of, validation
from fedinfer.store import transaction

VALIDITY_MIGRATIONS = (
    "CREATE TABLE revocations (id INTEGER PRIMARY KEY CHECK (id = 1), signed BLOB NOT NULL, latest INTEGER NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept.

    Args:
        revocations: the newest signed list that was believed; empty before the first.
        latest: the latest time at which one was believed, seconds since 1970; 0 before that.
    """

    revocations: bytes = b""
    latest: int = 0


class KnownStore(Protocol):
    """Keeps what is known; a real device keeps it over restarts."""

    def read(self) -> Known:
        """What was kept last; an empty `Known` before that."""

    def keep(self, known: Known) -> None:
        """Replace what was kept.

        Args:
            known: newer than what was kept; the caller has checked that.

        Raises:
            StoreError: it cannot be written.
        """


class MemoryKnown:
    """For a simulation, whose devices live as long as the process."""

    def __init__(self) -> None:
        self._known = Known()

    def read(self) -> Known:
        """As `KnownStore.read`."""
        return self._known

    def keep(self, known: Known) -> None:
        """As `KnownStore.keep`."""
        self._known = known


class StoredKnown:
    """In the device's database.

    Args:
        connection: opened with VALIDITY_MIGRATIONS.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self) -> Known:
        """As `KnownStore.read`."""
        row = self._connection.execute("SELECT signed, latest FROM revocations").fetchone()
        return Known(bytes(row[0]), int(row[1])) if row else Known()

    def keep(self, known: Known) -> None:
        """As `KnownStore.keep`."""
        with transaction(self._connection) as database:
            database.execute("INSERT OR REPLACE INTO revocations VALUES (1, ?, ?)", (known.revocations, known.latest))


def known_time(store: KnownStore, metadata: Path, now: datetime) -> int:
    """The clock's time, or a later one that the device has known: seconds since 1970.

    Args:
        store: what is known about the authority.
        metadata: folder of the update channel, whose last refresh counts too.
        now: by the clock.
    """
    return max(seconds_of(latest_known(metadata, now)), store.read().latest)


def believe(store: KnownStore, authority: bytes, revocations: bytes, now: int) -> Validation:
    """Check a list that came, and remember it.

    Args:
        store: what is known.
        authority: public key, pinned.
        revocations: signed bytes that came with a task.
        now: from `known_time`.

    Returns:
        What certificates are checked against.

    Raises:
        Misbehaviour: missing, not the authority's, ended, or older than what is known.
    """
    against, known = validation(authority, revocations, now), store.read()
    seen = read_revocations(authority, known.revocations) if known.revocations else None
    check_not_older(against.revocations, seen)
    store.keep(Known(revocations, against.now))
    return against
