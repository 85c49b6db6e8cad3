"""Finished windows that wait for their report, in the device's database: they survive a restart, once read they go."""

from __future__ import annotations

import sqlite3
from typing import Protocol

import numpy as np

from fedinfer.errors import Misbehaviour
from fedinfer.store import transaction
from fedinfer.types import DeviceId, FloatVector

SKETCH_MIGRATIONS = (
    """CREATE TABLE sketch (device TEXT NOT NULL, window INTEGER NOT NULL, counts BLOB NOT NULL,
        PRIMARY KEY (device, window))""",
    "ALTER TABLE sketch ADD COLUMN origin TEXT NOT NULL DEFAULT ''",
)


class Sketches(Protocol):
    """Sketches by device and window."""

    def put(self, device: DeviceId, window: int, sketch: FloatVector, origin: str = "") -> None:
        """Keep a sketch; a window that is observed again replaces the old one.

        Args:
            device: whose rows were observed.
            window: number of the inference window, from 1.
            sketch: float32, shape (width of a report,); no noise is in it yet.
            origin: of real predictions: for which run, and by which version; it may then be carried over.
        """

    def carry(self, device: DeviceId, window: int, origin: str) -> bool:
        """Hand the newest sketch that was never reported on to a later window, or leave it in its own.

        Args:
            device: whose sketch.
            window: number of the inference window that asks.
            origin: as it was put; not empty.

        Returns:
            False: there is none of this origin.
        """

    def take(self, device: DeviceId, window: int) -> FloatVector:
        """Hand a sketch out and forget it, so that no window is reported twice.

        Args:
            device: whose sketch.
            window: number of the inference window, from 1.

        Returns:
            float32, shape (width of a report,).

        Raises:
            Misbehaviour: there is none, or it was reported already.
        """


class MemorySketches:
    """Sketches of simulated devices in this process."""

    def __init__(self) -> None:
        self._sketches: dict[tuple[DeviceId, int], FloatVector] = {}
        self._origins: dict[tuple[DeviceId, int], str] = {}

    def put(self, device: DeviceId, window: int, sketch: FloatVector, origin: str = "") -> None:
        """As `Sketches.put`."""
        self._sketches[(device, window)], self._origins[(device, window)] = sketch, origin

    def carry(self, device: DeviceId, window: int, origin: str) -> bool:
        """As `Sketches.carry`."""
        known = [key for key in self._sketches if key[0] == device and key[1] <= window]
        fit = [key for key in known if self._origins[key] == origin]
        if not fit:
            return False
        self.put(device, window, self._sketches[max(fit)], origin)
        for key in known:
            if key[1] < window:
                del self._sketches[key]
        return True

    def take(self, device: DeviceId, window: int) -> FloatVector:
        """As `Sketches.take`."""
        if (device, window) not in self._sketches:
            raise Misbehaviour(f"device {device} has no sketch of window {window} to report")
        return self._sketches.pop((device, window))


class StoredSketches:
    """Sketches in the device's database.

    Args:
        connection: opened with SKETCH_MIGRATIONS.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, device: DeviceId, window: int, sketch: FloatVector, origin: str = "") -> None:
        """As `Sketches.put`."""
        with transaction(self._connection) as database:
            row = (device, window, sketch.astype("<f4").tobytes(), origin)
            database.execute("INSERT OR REPLACE INTO sketch (device, window, counts, origin) VALUES (?, ?, ?, ?)", row)

    def carry(self, device: DeviceId, window: int, origin: str) -> bool:
        """As `Sketches.carry`."""
        with transaction(self._connection) as database:
            query = "SELECT MAX(window) FROM sketch WHERE device = ? AND window <= ? AND origin = ?"
            (found,) = database.execute(query, (device, window, origin)).fetchone()
            if found is None:
                return False
            if found < window:
                database.execute("DELETE FROM sketch WHERE device = ? AND window = ?", (device, window))
            moved = "UPDATE sketch SET window = ? WHERE device = ? AND window = ?"
            database.execute(moved, (window, device, found))
            database.execute("DELETE FROM sketch WHERE device = ? AND window < ?", (device, window))
            return True

    def take(self, device: DeviceId, window: int) -> FloatVector:
        """As `Sketches.take`."""
        with transaction(self._connection) as database:
            key = (device, window)
            row = database.execute("SELECT counts FROM sketch WHERE device = ? AND window = ?", key).fetchone()
            if row is None:
                raise Misbehaviour(f"device {device} has no sketch of window {window} to report")
            database.execute("DELETE FROM sketch WHERE device = ? AND window = ?", key)
        return np.frombuffer(row[0], "<f4").astype(np.float32)
