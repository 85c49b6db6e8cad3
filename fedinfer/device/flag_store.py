"""What a device compares its windows with before it raises its flag, in its database; it never leaves the device."""

from __future__ import annotations

import sqlite3
from typing import Protocol

import numpy as np

from fedinfer.store import transaction
from fedinfer.types import DeviceId, WideVector

FLAG_MIGRATIONS = ("CREATE TABLE flag_reference (device TEXT PRIMARY KEY, counts BLOB NOT NULL)",)


class FlagReferences(Protocol):
    """One packed reference per device, see `fedinfer.drift.flags`."""

    def put(self, device: DeviceId, reference: WideVector) -> None:
        """Keep a reference in place of the one before.

        Args:
            device: whose rows were counted.
            reference: float64, packed.
        """

    def get(self, device: DeviceId) -> WideVector | None:
        """The reference that was kept last; None before the first.

        Args:
            device: whose.
        """


class MemoryFlagReferences:
    """References of simulated devices in this process."""

    def __init__(self) -> None:
        self._kept: dict[DeviceId, WideVector] = {}

    def put(self, device: DeviceId, reference: WideVector) -> None:
        """As `FlagReferences.put`."""
        self._kept[device] = reference

    def get(self, device: DeviceId) -> WideVector | None:
        """As `FlagReferences.get`."""
        return self._kept.get(device)


class StoredFlagReferences:
    """References in the device's database.

    Args:
        connection: opened with FLAG_MIGRATIONS.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, device: DeviceId, reference: WideVector) -> None:
        """As `FlagReferences.put`."""
        with transaction(self._connection) as database:
            row = (device, reference.astype("<f8").tobytes())
            database.execute("INSERT OR REPLACE INTO flag_reference VALUES (?, ?)", row)

    def get(self, device: DeviceId) -> WideVector | None:
        """As `FlagReferences.get`."""
        row = self._connection.execute("SELECT counts FROM flag_reference WHERE device = ?", (device,)).fetchone()
        return None if row is None else np.frombuffer(row[0], "<f8").astype(np.float64)
