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
)


class Sketches(Protocol):
    """Sketches by device and window."""

    def put(self, device: DeviceId, window: int, sketch: FloatVector) -> None:
        """Keep a sketch; a window that is observed again replaces the old one.

        Args:
            device: whose rows were observed.
            window: number of the inference window, from 1.
            sketch: float32, shape (width of a report,); no noise is in it yet.
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

    def put(self, device: DeviceId, window: int, sketch: FloatVector) -> None:
        """As `Sketches.put`."""
        self._sketches[(device, window)] = sketch

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

    def put(self, device: DeviceId, window: int, sketch: FloatVector) -> None:
        """As `Sketches.put`."""
        with transaction(self._connection) as database:
            row = (device, window, sketch.astype("<f4").tobytes())
            database.execute("INSERT OR REPLACE INTO sketch VALUES (?, ?, ?)", row)

    def take(self, device: DeviceId, window: int) -> FloatVector:
        """As `Sketches.take`."""
        with transaction(self._connection) as database:
            key = (device, window)
            row = database.execute("SELECT counts FROM sketch WHERE device = ? AND window = ?", key).fetchone()
            if row is None:
                raise Misbehaviour(f"device {device} has no sketch of window {window} to report")
            database.execute("DELETE FROM sketch WHERE device = ? AND window = ?", key)
        return np.frombuffer(row[0], "<f4").astype(np.float32)
