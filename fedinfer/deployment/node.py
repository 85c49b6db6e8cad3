"""A real device behind a SuperNode. Its process may end at any message, so all state is in the store."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.data import DeviceData, all_slots, cut_of, load_own, training_slots
from fedinfer.deployment.key_files import private_file
from fedinfer.deployment.pinned import shipped_root
from fedinfer.deployment.store import ANY_TASK, DATABASE, DeviceStore, open_device
from fedinfer.device import (
    FLAG_MIGRATIONS,
    SESSION_MIGRATIONS,
    SKETCH_MIGRATIONS,
    VALIDITY_MIGRATIONS,
    Host,
    Member,
    Policy,
    PredictionLog,
    StoredFlagReferences,
    StoredKnown,
    StoredSessions,
    StoredSketches,
    rejoin,
    unusual_channels,
)
from fedinfer.errors import FedInferError, Misbehaviour
from fedinfer.flower import build_id
from fedinfer.inference import SessionCache
from fedinfer.messages import MOST_DESCRIPTIONS, JoinRequest
from fedinfer.privacy import LEDGER_MIGRATIONS, Ledger, NoiseStream, SecureStream, WindowRows
from fedinfer.schema import Schema
from fedinfer.store import open_store, transaction
from fedinfer.system import SystemClock, SystemEntropy, child_seed, simulation_rng
from fedinfer.training import GradientEngine
from fedinfer.types import DeviceId, FloatVector, Trust
from fedinfer.wire import decode

TASK_MIGRATIONS = (
    "CREATE TABLE joined (id INTEGER PRIMARY KEY CHECK (id = 1), message BLOB NOT NULL)",
    """CREATE TABLE pinned (id INTEGER PRIMARY KEY CHECK (id = 1), trusted_root BLOB NOT NULL);
       CREATE TABLE described (digest BLOB PRIMARY KEY)""",
)
_log = logging.getLogger(__name__)


class OwnRows:
    """The table of one device, read when it is first needed.

    Args:
        store: names the table.
        tasks: opened with TASK_MIGRATIONS; counts the descriptions that were tried.
    """

    def __init__(self, store: DeviceStore, tasks: sqlite3.Connection) -> None:
        self._store = store
        self._tasks = tasks
        self._read_for: Scenario | None = None
        self._data: DeviceData | None = None
        self._divided: tuple[Scenario, str] | None = None
        self.host: Host | None = None

    def training(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """As `Rows.training`: the rows of the table that are not held out; they do not depend on the window."""
        data = self._read()
        return data.train_x, data.train_y

    def stream(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """As `Rows.stream`: the held-out rows in order, window by window, and from the start again after the last."""
        data, rows = self._read(), self._host().joined().scenario.drift.window
        count = len(data.test_y)
        chosen = (np.arange(min(rows, count)) + (window - 1) * rows) % max(count, 1)
        return data.test_x[chosen], data.test_y[chosen]

    def unseen(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """As `Rows.unseen`: the held-out rows of the table; they do not depend on the window."""
        data = self._read()
        return data.test_x, data.test_y

    def training_count(self, device: DeviceId) -> int:
        """As `Rows.training_count`, from the length of the table alone.

        A count of the rows with certain labels, which the server names, would be an answer without noise.
        """
        self._read()
        return training_slots(self._host().joined().scenario, self._store.data)

    def division(self, device: DeviceId) -> str:
        """As `Rows.division`: what the choice of held-out rows depends on, but the device's name, which stays.

        It goes into the device's ledger only. Another length of the table, another `test_fraction`, or another rule
        about where a row ends moves rows from one part to the other. Only the length is read, because this is asked
        before the spend is written.
        """
        scenario = self._host().joined().scenario
        if self._divided is None or self._divided[0] is not scenario:
            self._divided = scenario, self._division_now(scenario)
        return self._divided[1]

    def _division_now(self, scenario: Scenario) -> str:
        count, data = all_slots(scenario, self._store.data), scenario.data
        chosen = f"by {data.time}" if data.time else "drawn"
        # What comes last in it may hold anything: a name of a column is part of how a table is cut.
        parts = (f"{data.test_fraction!r} of {count} rows", chosen, cut_of(scenario))
        return f"{WindowRows.LIVE}: {', '.join(filter(None, parts))}"

    def _read(self) -> DeviceData:
        task = self._host().joined()
        scenario = task.scenario
        if self._data is None or self._read_for is not scenario:
            _admit_description(self._tasks, scenario)
            # Which rows are held out must not change between two messages, so it follows from the device's name.
            rng = simulation_rng(child_seed("held out", self._store.device))
            data = load_own(scenario, task.schema, self._store.data, rng)
            told = self.division(self._store.device)
            if self._division_now(scenario) != told:
                raise Misbehaviour("the table of this device changed between the spend and its use", hint="join anew")
            self._data, self._read_for = data, scenario
        return self._data

    def _host(self) -> Host:
        if self.host is None:
            raise RuntimeError("OwnRows belongs to no host yet")
        return self.host


def unusual_inputs(folder: Path, schema: Schema) -> tuple[str, ...]:
    """What this device's own test has found unusual in its last windows; for its owner, it is never sent.

    Args:
        folder: of the device's store.
        schema: of the model that serves.

    Returns:
        Names of channels, `input:COLUMN` for a column; none for a device that is in no run, or compares nothing.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    if not (folder / DATABASE).exists():
        return ()
    references = StoredFlagReferences(open_store(folder / DATABASE, "flags", FLAG_MIGRATIONS))
    return unusual_channels(references, open_device(folder).device, schema)


def open_host(folder: Path) -> Host:
    """Open the host of a real device: keys and noise from the operating system, nothing simulated, nothing revealed.

    Args:
        folder: of the device's store.

    Raises:
        ConfigError: the folder is no device store.
        StoreError: a file of it cannot be read, or its database cannot be opened.
        Misbehaviour: the certificate is not the authority's for this device and key.
    """
    store = open_device(folder)
    database = folder / DATABASE
    private_file(database)
    tasks = open_store(database, "task", TASK_MIGRATIONS)
    rows = OwnRows(store, tasks)
    pinned = tasks.execute("SELECT trusted_root FROM pinned").fetchone()
    host = Host(
        members={store.device: Member(store.device, store.identity, store.certificate)},
        authority=store.authority,
        build=build_id(),
        policy=_policy(store),
        rows=rows,
        ledger=Ledger(open_store(database, "privacy", LEDGER_MIGRATIONS)),
        sessions=StoredSessions(open_store(database, "sessions", SESSION_MIGRATIONS)),
        sketches=StoredSketches(open_store(database, "sketches", SKETCH_MIGRATIONS)),
        references=StoredFlagReferences(open_store(database, "flags", FLAG_MIGRATIONS)),
        known=StoredKnown(open_store(database, "validity", VALIDITY_MIGRATIONS)),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        noise=lambda _plan, _device, _use: secure_noise(),
        generator=lambda _plan, _device: SystemEntropy(),
        engine=GradientEngine.PER_EXAMPLE,
        drops_out=lambda _round, _device: None,
        folder=lambda _device: folder,
        model_cache=SessionCache(2),
        remember=lambda message: _remember(tasks, message),
        trusted_root=bytes(pinned[0]) if pinned else shipped_root(folder),
        predictions=PredictionLog.open(folder, SystemClock()),
    )
    rows.host = host
    _take_up(host, tasks)
    return host


def _policy(store: DeviceStore) -> Policy:
    """What the owner allows; what only a simulation may do is never among it."""
    return Policy(
        budget=store.budget,
        plain_sums=False,
        min_survivors=store.floors.min_survivors,
        trusts=frozenset({Trust.LOCAL, Trust.DISTRIBUTED}),
        dropout_rate=store.floors.dropout_rate,
        corruption_rate=store.floors.corruption_rate,
        unconfirmed_ranges=False,
        reveals_simulation=False,
        factories=store.factories,
        tasks=None if not store.tasks or ANY_TASK in store.tasks else store.tasks,
    )


def _take_up(host: Host, tasks: sqlite3.Connection) -> None:
    """Go on with the run that the device was in when its last process ended."""
    kept = tasks.execute("SELECT message FROM joined").fetchone()
    if kept is None:
        return
    try:
        rejoin(host, bytes(kept[0]))
    except FedInferError as error:  # its owner has changed his mind since: the device waits for another run
        _log.warning("the run that this device was in is not taken up again: %s", error)


def secure_noise() -> NoiseStream:
    """Noise of a real device; the type refuses anything that could be seeded."""
    return SecureStream(SystemEntropy())


def _remember(tasks: sqlite3.Connection, message: bytes) -> None:
    root = decode(JoinRequest, message).trusted_root
    with transaction(tasks) as database:
        database.execute("INSERT OR REPLACE INTO joined VALUES (1, ?)", (message,))
        if root:
            database.execute("INSERT OR IGNORE INTO pinned VALUES (1, ?)", (root,))


def _admit_description(tasks: sqlite3.Connection, scenario: Scenario) -> None:
    """Note how the table is described, before it is read.

    Raises:
        Misbehaviour: too many other descriptions were tried.
    """
    digest = hashlib.sha256(scenario.data.model_dump_json().encode()).digest()
    with transaction(tasks) as database:
        known = [bytes(row[0]) for row in database.execute("SELECT digest FROM described")]
        if digest not in known and len(known) >= MOST_DESCRIPTIONS:
            raise Misbehaviour(
                f"{len(known)} descriptions of this device's table were tried, another one is not",
                hint="its owner removes the rows of the table `described` in device.sqlite",
            )
        database.execute("INSERT OR IGNORE INTO described VALUES (?)", (digest,))
