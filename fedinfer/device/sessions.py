"""Where a device keeps the secrets of a running private sum between two messages.

In deployment every message may run in a fresh process, so the state lives in the device's own database and is
overwritten and deleted when the round ends. A simulation keeps it in memory.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Protocol

from fedinfer.errors import Misbehaviour
from fedinfer.messages import Kind
from fedinfer.store import transaction
from fedinfer.types import DeviceId

SESSION_MIGRATIONS = (
    """CREATE TABLE session (
        device TEXT NOT NULL, round_id TEXT NOT NULL, stage TEXT NOT NULL, plan BLOB NOT NULL, state BLOB NOT NULL,
        PRIMARY KEY (device))""",
    """CREATE TABLE started (device TEXT NOT NULL, round_id TEXT NOT NULL, PRIMARY KEY (device, round_id))""",
)


@dataclass(frozen=True, slots=True)
class Running:
    """One device's part of a running sum. `state` holds secrets: it is never printed."""

    round_id: str
    stage: Kind
    plan: bytes
    state: bytes

    def at(self, stage: Kind, state: bytes) -> Running:
        """The same round one stage further."""
        return Running(self.round_id, stage, self.plan, state)

    def __repr__(self) -> str:
        return f"Running(round_id={self.round_id!r}, stage={self.stage})"


class Sessions(Protocol):
    """Running sums by device: at most one each; a finished or replaced round never comes back."""

    def begin(self, device: DeviceId, running: Running) -> None:
        """Start a round.

        Raises:
            Misbehaviour: when this round was started before.
        """

    def load(self, device: DeviceId) -> Running:
        """The running round.

        Raises:
            Misbehaviour: when there is none.
        """

    def advance(self, device: DeviceId, running: Running) -> None:
        """Replace the state."""

    def finish(self, device: DeviceId) -> None:
        """Wipe the state of the running round."""


class MemorySessions:
    """Sessions of simulated devices in this process."""

    def __init__(self) -> None:
        self._running: dict[DeviceId, Running] = {}
        self._seen: set[tuple[DeviceId, str]] = set()

    def begin(self, device: DeviceId, running: Running) -> None:
        """See Sessions."""
        if (device, running.round_id) in self._seen:
            raise Misbehaviour(f"round {running.round_id} was started before on device {device}")
        self._seen.add((device, running.round_id))
        self._running[device] = running

    def load(self, device: DeviceId) -> Running:
        """See Sessions."""
        if device not in self._running:
            raise Misbehaviour(f"device {device} has no running round")
        return self._running[device]

    def advance(self, device: DeviceId, running: Running) -> None:
        """See Sessions."""
        self._running[device] = running

    def finish(self, device: DeviceId) -> None:
        """See Sessions."""
        self._running.pop(device, None)


class StoredSessions:
    """Sessions in the device's database.

    Args:
        connection: opened with SESSION_MIGRATIONS; secure_delete is switched on, so that wiped keys leave no trace in
            the file.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA secure_delete=ON")
        self._connection = connection

    def begin(self, device: DeviceId, running: Running) -> None:
        """See Sessions."""
        with transaction(self._connection) as database:
            seen = database.execute(
                "SELECT 1 FROM started WHERE device = ? AND round_id = ?", (device, running.round_id)
            ).fetchone()
            if seen:
                raise Misbehaviour(f"round {running.round_id} was started before on device {device}")
            database.execute("INSERT INTO started VALUES (?, ?)", (device, running.round_id))
            database.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?)", _row(device, running))

    def load(self, device: DeviceId) -> Running:
        """See Sessions."""
        row = self._connection.execute(
            "SELECT round_id, stage, plan, state FROM session WHERE device = ?", (device,)
        ).fetchone()
        if row is None:
            raise Misbehaviour(f"device {device} has no running round")
        return Running(str(row[0]), Kind(row[1]), bytes(row[2]), bytes(row[3]))

    def advance(self, device: DeviceId, running: Running) -> None:
        """See Sessions."""
        with transaction(self._connection) as database:
            database.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?)", _row(device, running))

    def finish(self, device: DeviceId) -> None:
        """See Sessions."""
        with transaction(self._connection) as database:
            database.execute("DELETE FROM session WHERE device = ?", (device,))


def _row(device: DeviceId, running: Running) -> tuple[str, str, str, bytes, bytes]:
    return device, running.round_id, str(running.stage), running.plan, running.state
