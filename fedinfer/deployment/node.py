"""A real device behind a SuperNode. Flower may start a fresh process per message, so all state is in the store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedinfer.data import load_own
from fedinfer.data.table import DeviceData
from fedinfer.deployment.store import DATABASE, DeviceStore, open_device
from fedinfer.device.host import Host, Member, Policy
from fedinfer.device.join import rejoin
from fedinfer.device.sessions import SESSION_MIGRATIONS, StoredSessions
from fedinfer.device.sketches import SKETCH_MIGRATIONS, StoredSketches
from fedinfer.inference.session import SessionCache
from fedinfer.privacy.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.privacy.noise import NoiseStream, SecureStream
from fedinfer.store import open_store, transaction
from fedinfer.system import SystemClock, SystemEntropy, child_seed, simulation_rng
from fedinfer.types import DeviceId, FloatVector, Relation, Trust

TASK_MIGRATIONS = ("CREATE TABLE joined (id INTEGER PRIMARY KEY CHECK (id = 1), message BLOB NOT NULL)",)
DROPOUT_RATE, CORRUPTION_RATE = 0.1, 0.1
"""What a real device demands of the neighbour graph of any cohort of more than 20 devices."""


class OwnRows:
    """The table of one device, read when it is first needed.

    Args:
        store: names the table.
        window_rows: rows of one inference window.
    """

    def __init__(self, store: DeviceStore) -> None:
        self._store = store
        self._data: DeviceData | None = None
        self.host: Host | None = None

    def training(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """Labelled rows."""
        data = self._read()
        return data.train_x, data.train_y

    def stream(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """The held-out rows in order, window by window, from the start again when they are used up."""
        data, rows = self._read(), self._host().joined().scenario.drift.window
        count = len(data.test_y)
        chosen = (np.arange(min(rows, count)) + (window - 1) * rows) % max(count, 1)
        return data.test_x[chosen], data.test_y[chosen]

    def training_count(self, device: DeviceId) -> int:
        """Number of training rows."""
        return len(self._read().train_y)

    def _read(self) -> DeviceData:
        if self._data is None:
            scenario = self._host().joined().scenario
            # Which rows are held out must not change between two messages, so it follows from the device's name.
            rng = simulation_rng(child_seed("held out", self._store.device))
            self._data = load_own(scenario, self._store.data, rng)
        return self._data

    def _host(self) -> Host:
        if self.host is None:
            raise RuntimeError("OwnRows belongs to no host yet")
        return self.host


def open_host(folder: Path) -> Host:
    """The host of a real device: keys and noise from the operating system, nothing simulated, nothing revealed.

    Raises:
        ConfigError: the folder is no device store.
    """
    store = open_device(folder)
    database = folder / DATABASE
    tasks = open_store(database, "task", TASK_MIGRATIONS)
    rows = OwnRows(store)
    host = Host(
        members={store.device: Member(store.device, store.identity, store.certificate)},
        authority=store.authority,
        policy=Policy(
            budget=store.budget,
            plain_sums=False,
            min_survivors=store.min_survivors,
            trusts=frozenset({Trust.LOCAL, Trust.DISTRIBUTED}),
            dropout_rate=DROPOUT_RATE,
            corruption_rate=CORRUPTION_RATE,
            unconfirmed_ranges=False,
            reveals_simulation=False,
        ),
        rows=rows,
        ledger=Ledger(open_store(database, "privacy", LEDGER_MIGRATIONS), Relation.ADD_REMOVE),
        sessions=StoredSessions(open_store(database, "sessions", SESSION_MIGRATIONS)),
        sketches=StoredSketches(open_store(database, "sketches", SKETCH_MIGRATIONS)),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        noise=lambda _plan, _device, _use: secure_noise(),
        generator=lambda _plan, _device: SystemEntropy(),
        vanishes=lambda _round, _device: None,
        folder=lambda _device: folder,
        model_cache=SessionCache(2),
        remember=lambda message: _remember(tasks, message),
    )
    rows.host = host
    kept = tasks.execute("SELECT message FROM joined").fetchone()
    if kept is not None:
        rejoin(host, bytes(kept[0]))
    return host


def secure_noise() -> NoiseStream:
    """Noise of a real device; the type refuses anything that could be seeded."""
    return SecureStream(SystemEntropy())


def _remember(tasks: sqlite3.Connection, message: bytes) -> None:
    with transaction(tasks) as database:
        database.execute("INSERT OR REPLACE INTO joined VALUES (1, ?)", (message,))
