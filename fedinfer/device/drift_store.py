"""Finished windows that wait for their report, in the device's database: they survive a restart, once read they go.

A sketch may wait since another run. What one row moves in it follows from the channels that were counted, so it is
handed out for a report of the same channels only: the noise of another report may be for fewer.
"""

from __future__ import annotations

import sqlite3
from typing import Protocol

import numpy as np

from fedinfer.device.prediction_window import Layout, layout_text
from fedinfer.errors import Misbehaviour
from fedinfer.store import transaction
from fedinfer.types import AnyFloats, DeviceId

SKETCH_MIGRATIONS = (
    """CREATE TABLE sketch (device TEXT NOT NULL, window INTEGER NOT NULL, counts BLOB NOT NULL,
        PRIMARY KEY (device, window))""",
    "ALTER TABLE sketch ADD COLUMN origin TEXT NOT NULL DEFAULT ''",
    # What waits since an earlier version does not say what it counts, and is in single precision.
    "DELETE FROM sketch; ALTER TABLE sketch ADD COLUMN layout TEXT NOT NULL DEFAULT ''",
)


class Sketches(Protocol):
    """Sketches by device and window."""

    def put(self, device: DeviceId, window: int, sketch: AnyFloats, layout: Layout, origin: str = "") -> None:
        """Keep a sketch; a window that is observed again replaces the old one.

        Args:
            device: whose rows were observed.
            window: number of the inference window, from 1.
            sketch: of `window_report`, shape (width of a report,); no noise is in it yet.
            layout: name and bins of each channel that is counted in it.
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

    def take(self, device: DeviceId, window: int, layout: Layout) -> AnyFloats:
        """Hand a sketch out and forget it, so that no window is reported twice.

        Args:
            device: whose sketch.
            window: number of the inference window, from 1.
            layout: name and bins of each channel of the report.

        Returns:
            What was put, shape (width of a report,).

        Raises:
            Misbehaviour: there is none, it was reported already, or it counts other channels.
        """


class MemorySketches:
    """Sketches of simulated devices in this process."""

    def __init__(self) -> None:
        self._sketches: dict[tuple[DeviceId, int], tuple[AnyFloats, str]] = {}
        self._origins: dict[tuple[DeviceId, int], str] = {}

    def put(self, device: DeviceId, window: int, sketch: AnyFloats, layout: Layout, origin: str = "") -> None:
        """As `Sketches.put`."""
        self._sketches[(device, window)], self._origins[(device, window)] = (sketch, layout_text(layout)), origin

    def carry(self, device: DeviceId, window: int, origin: str) -> bool:
        """As `Sketches.carry`."""
        known = [key for key in self._sketches if key[0] == device and key[1] <= window]
        fit = [key for key in known if self._origins[key] == origin]
        if not fit:
            return False
        self._sketches[(device, window)], self._origins[(device, window)] = self._sketches[max(fit)], origin
        for key in known:
            if key[1] < window:
                del self._sketches[key]
        return True

    def take(self, device: DeviceId, window: int, layout: Layout) -> AnyFloats:
        """As `Sketches.take`."""
        sketch, kept = self._sketches.get((device, window), (None, ""))
        if sketch is None:
            raise _none(device, window)
        _check_layout(device, window, kept, layout)
        del self._sketches[(device, window)]
        return sketch


class StoredSketches:
    """Sketches in the device's database.

    Args:
        connection: opened with SKETCH_MIGRATIONS.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, device: DeviceId, window: int, sketch: AnyFloats, layout: Layout, origin: str = "") -> None:
        """As `Sketches.put`."""
        with transaction(self._connection) as database:
            row = (device, window, sketch.astype("<f8").tobytes(), origin, layout_text(layout))
            query = "INSERT OR REPLACE INTO sketch (device, window, counts, origin, layout) VALUES (?, ?, ?, ?, ?)"
            database.execute(query, row)

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

    def take(self, device: DeviceId, window: int, layout: Layout) -> AnyFloats:
        """As `Sketches.take`."""
        with transaction(self._connection) as database:
            key = (device, window)
            query = "SELECT counts, layout FROM sketch WHERE device = ? AND window = ?"
            row = database.execute(query, key).fetchone()
            if row is None:
                raise _none(device, window)
            _check_layout(device, window, row[1], layout)
            database.execute("DELETE FROM sketch WHERE device = ? AND window = ?", key)
        return np.frombuffer(row[0], "<f8").astype(np.float64)


def _none(device: DeviceId, window: int) -> Misbehaviour:
    return Misbehaviour(f"device {device} has no sketch of window {window} to report")


def _check_layout(device: DeviceId, window: int, kept: str, wanted: Layout) -> None:
    if kept != layout_text(wanted):
        raise Misbehaviour(f"the sketch of window {window} on device {device} counts other channels than this report")
