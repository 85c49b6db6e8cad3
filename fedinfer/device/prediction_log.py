"""What a device predicted, as counts in its store: one open window, the last closed ones, answers without a label yet.

No row is kept.

Rules:
* Every program of the device adds to the same window, each batch in one transaction: what is counted is counted whole,
  or after a crash not at all. What a program still collects is lost with it; a power cut may take the last seconds.
* A window closes when it has its number of rows, or at the next look after its time. A batch that is longer fills
  several. The last `MOST_CLOSED` are kept.
* A window holds predictions of one version, counted in one layout of channels. Another version, or other channels,
  begin a new one; what the old one held so far is dropped, because it would be neither.
* A closed window is handed out for a report once, the newest first; older ones are then never handed out.
* Of a request with an id the class (or value) and the raw answer of each row are kept until its labels come, for the
  last `MOST_WAITING` requests.
* Labels that come later count in the window that is open then, if it is one of the version that answered; in one
  transaction with the figures of that version, and of at most as many rows as a window has.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.device.prediction_window import (
    MOST_WINDOW_ROWS,
    Counts,
    LateCounts,
    Layout,
    PredictionWindow,
    WaitingAnswers,
    WindowRule,
    layout_text,
)
from fedinfer.errors import DataError, StoreError
from fedinfer.ports import Clock
from fedinfer.printable import is_unicode
from fedinfer.store import open_store, transaction

PREDICTION_MIGRATIONS = (
    """CREATE TABLE rule (id INTEGER PRIMARY KEY CHECK (id = 1), rows INTEGER NOT NULL, seconds REAL NOT NULL);
       CREATE TABLE window (number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, layout TEXT NOT NULL,
           rows INTEGER NOT NULL, opened INTEGER NOT NULL, closed INTEGER, reported INTEGER NOT NULL DEFAULT 0,
           counts BLOB NOT NULL);
       CREATE TABLE waiting (request TEXT PRIMARY KEY, number INTEGER NOT NULL, version INTEGER NOT NULL,
           rows INTEGER NOT NULL, answers BLOB NOT NULL);
       CREATE TABLE labelled (version INTEGER PRIMARY KEY, sums BLOB NOT NULL)""",
    """ALTER TABLE window ADD COLUMN labelled INTEGER NOT NULL DEFAULT 0;
       CREATE TABLE watched (id INTEGER PRIMARY KEY CHECK (id = 1), names TEXT NOT NULL)""",
    # A number is never given twice: it says which answers labels were compared with.
    """ALTER TABLE waiting RENAME TO former;
       CREATE TABLE waiting (number INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL UNIQUE,
           version INTEGER NOT NULL, rows INTEGER NOT NULL, answers BLOB NOT NULL);
       INSERT INTO waiting SELECT number, request, version, rows, answers FROM former ORDER BY number;
       DROP TABLE former""",
)
FILE = "predictions.sqlite"
"""In the folder of the store."""
MOST_CLOSED = 8
MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 2**10
"""Of the answers to one request; longer ones do not wait for labels."""
MOST_REQUEST = 200
"""Characters of the id of a request."""
MOST_VERSIONS = 8
"""Versions whose sums over labels are kept."""


class PredictionLog:
    """The log of one device; many threads and processes may use it.

    Args:
        connection: opened with PREDICTION_MIGRATIONS.
        clock: for the ages of windows.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._lock = threading.Lock()

    @staticmethod
    def open(store: Path, clock: Clock) -> PredictionLog:
        """The log in the folder of a device's store, made when it is not there.

        Args:
            store: the folder.
            clock: for the ages of windows.

        Raises:
            StoreError: it cannot be opened.
        """
        connection = open_store(store / FILE, "predictions", PREDICTION_MIGRATIONS)
        connection.execute("PRAGMA synchronous=NORMAL")  # whole after a power cut, but perhaps without its last seconds
        return PredictionLog(connection, clock)

    def rule(self) -> WindowRule:
        """When a window closes."""
        with self._transaction() as database:
            return _rule(database)

    def set_rule(self, rule: WindowRule) -> None:
        """Close windows by another rule from now on, the open one as well.

        Args:
            rule: replaces the one before.
        """
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO rule VALUES (1, ?, ?)", (rule.rows, rule.seconds))

    def watched(self) -> tuple[str, ...]:
        """Names of the channels that a run reports; none: the answers."""
        with self._reading() as database:
            row = database.execute("SELECT names FROM watched").fetchone()
        return () if row is None else tuple(json.loads(row[0]))

    def watch(self, names: Sequence[str]) -> None:
        """Count other channels from the next prediction on; what the open window holds so far is dropped then.

        Args:
            names: replace those before.
        """
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO watched VALUES (1, ?)", (json.dumps(list(names)),))

    def add(self, version: int, layout: Layout, rows: int, count: Callable[[int, int], Sequence[Counts]]) -> None:
        """Count predictions, in as many windows as they fill.

        Args:
            version: of the model.
            layout: name and bins of each channel.
            rows: how many, >= 0.
            count: called with places of the first row and of the one behind the last; gives the counts of each channel.
        """
        with self._transaction() as database:
            if not rows:
                return
            most, now, text = _rule(database).rows, self._now(), layout_text(layout)
            number, before, counts = self._open(database, version, text)
            done = min(rows, most - before)
            first: Counts = counts + np.concatenate(count(0, done))
            query = "UPDATE window SET rows = ?, counts = ?, closed = ? WHERE number = ?"
            closed = now if before + done == most else None
            database.execute(query, (before + done, first.astype("<f8").tobytes(), closed, number))
            # Of many windows in one batch the last ones alone are kept: the others are not counted at all.
            passed = max((rows - done) // most - MOST_CLOSED, 0)
            done, number = done + passed * most, number + passed
            while done < rows:
                end, number = min(rows, done + most), number + 1
                more: Counts = np.concatenate(count(done, end))
                closed = now if end - done == most else None
                _insert(database, version, text, more, end - done, now, closed, number)
                done = end
            _forget(database)

    def windows(self) -> tuple[PredictionWindow, ...]:
        """All that are kept, oldest first; one whose time is over is closed."""
        with self._transaction() as database:
            self._close_late(database)
            return tuple(map(_window, database.execute(f"{_SELECT} ORDER BY number")))

    def take(self, version: int, least_rows: int, most_rows: int = MOST_WINDOW_ROWS) -> PredictionWindow | None:
        """The newest closed window of a version that was not handed out; it and all before it are not again.

        Args:
            version: of the model.
            least_rows: one with fewer is passed over, >= 1.
            most_rows: one with more is passed over.

        Returns:
            None when there is none.
        """
        with self._transaction() as database:
            self._close_late(database)
            row = database.execute(
                f"{_SELECT} WHERE closed IS NOT NULL AND reported = 0 AND version = ? AND rows BETWEEN ? AND ? "
                "ORDER BY number DESC LIMIT 1",
                (version, least_rows, most_rows),
            ).fetchone()
            if row is None:
                return None
            database.execute("UPDATE window SET reported = 1 WHERE closed IS NOT NULL AND number <= ?", (row[0],))
            return _window(row)

    def remember(self, answered: Mapping[str, WaitingAnswers]) -> None:
        """Keep the answers to requests until their labels come; a second request with the same id takes its place.

        Args:
            answered: by id of the request, which is untrusted. Under an empty or very long one, or one that is not
                Unicode, nothing is kept, and very many answers to one request are not.
        """
        fit = {
            request: (answers.version, len(answers.raw), data)
            for request, answers in answered.items()
            if _is_id(request) and len(data := _packed(answers)) <= MOST_WAITING_BYTES
        }
        with self._transaction() as database:
            rows = [(request, *facts) for request, facts in fit.items()]
            query = "INSERT OR REPLACE INTO waiting (request, version, rows, answers) VALUES (?, ?, ?, ?)"
            database.executemany(query, rows)
            old = "DELETE FROM waiting WHERE number <= (SELECT MAX(number) FROM waiting) - ?"
            database.execute(old, (MOST_WAITING,))

    def recall(self, request: str) -> WaitingAnswers:
        """The answers that wait for the labels of a request.

        Args:
            request: its id; untrusted.

        Raises:
            DataError: none wait.
        """
        with self._transaction() as database:
            query = "SELECT version, rows, answers, number FROM waiting WHERE request = ?"
            row = database.execute(query, (request,)).fetchone() if _is_id(request) else None
        if row is None:
            raise DataError(
                f"no answers wait for the labels of request {request[:60]!r}",
                hint=f"it was never answered, has its labels, or is not among the last {MOST_WAITING}",
            )
        table = np.frombuffer(row[2], "<f4").reshape(row[1], -1)
        return WaitingAnswers(row[0], table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32), row[3])

    def add_labels(
        self,
        version: int,
        sums: npt.NDArray[np.float64],
        request: str = "",
        number: int = 0,
        late: LateCounts | None = None,
    ) -> npt.NDArray[np.float64]:
        """Add up what labels say about answers.

        Args:
            version: that gave the answers.
            sums: (n,), n the same for a version.
            request: whose answers then wait no more; empty: none did.
            number: of these answers, as `recall` gave them.
            late: what the open window counts of them; None: nothing.

        Returns:
            All sums of the version.

        Raises:
            DataError: another program was quicker with the labels of this request; other answers may wait under it.
        """
        with self._transaction() as database:
            if request:
                # Not whatever waits under this id by now: two calls that read the same answers would both count them.
                which = "DELETE FROM waiting WHERE request = ? AND number = ?"
                gone = database.execute(which, (request, number)).rowcount
                if not gone:
                    raise DataError(f"request {request[:60]!r} has its labels already")
            row = database.execute("SELECT sums FROM labelled WHERE version = ?", (version,)).fetchone()
            after = sums.copy()
            if row is not None:
                before = np.frombuffer(row[0], "<f8")  # an earlier release summed less: what it lacks stays unknown
                after[: len(before)] += before
            database.execute("INSERT OR REPLACE INTO labelled VALUES (?, ?)", (version, after.astype("<f8").tobytes()))
            database.execute(
                "DELETE FROM labelled WHERE version NOT IN "
                "(SELECT version FROM labelled ORDER BY version DESC LIMIT ?)",
                (MOST_VERSIONS,),
            )
            if late is not None:
                self._count_late(database, version, late)
        return after

    def labels(self) -> dict[int, npt.NDArray[np.float64]]:
        """Sums over labels by version, flat."""
        with self._transaction() as database:
            rows = database.execute("SELECT version, sums FROM labelled ORDER BY version").fetchall()
        return {version: np.frombuffer(sums, "<f8").astype(np.float64) for version, sums in rows}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._connection) as database:
            yield database

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """For one SELECT, which needs no transaction and keeps no other program waiting."""
        try:
            with self._lock:
                yield self._connection
        except sqlite3.Error as error:
            raise StoreError(f"{FILE}: {error}") from error

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    def _open(self, database: sqlite3.Connection, version: int, layout: str) -> tuple[int, int, Counts]:
        """Number, rows and counts of the open window, which is made when there is none."""
        self._close_late(database)
        query = "SELECT number, rows, counts, version, layout FROM window WHERE closed IS NULL"
        row = database.execute(query).fetchone()
        if row is not None and row[3:] == (version, layout) and row[1] < _rule(database).rows:
            return row[0], row[1], np.frombuffer(row[2], "<f8")
        if row is not None:
            self._end(database, row[0], keep=row[3:] == (version, layout))
        bins = sum(bins for _, bins in json.loads(layout))
        empty: Counts = np.zeros(bins)
        return _insert(database, version, layout, empty, 0, self._now(), None), 0, empty

    def _count_late(self, database: sqlite3.Connection, version: int, late: LateCounts) -> None:
        """Labels of another version, or of more rows than a window has, say nothing about the open window."""
        self._close_late(database)
        query = "SELECT version, layout, labelled FROM window WHERE closed IS NULL"
        row = database.execute(query).fetchone()
        known = (version, layout_text(late.layout)) if row is None else row[:2]
        labelled = (0 if row is None else row[2]) + late.rows
        if known != (version, layout_text(late.layout)) or labelled > _rule(database).rows:
            return
        number, _, counts = self._open(database, version, layout_text(late.layout))
        after: Counts = counts + np.concatenate(late.counts)
        change = "UPDATE window SET counts = ?, labelled = ? WHERE number = ?"
        database.execute(change, (after.astype("<f8").tobytes(), labelled, number))

    def _end(self, database: sqlite3.Connection, number: int, *, keep: bool) -> None:
        """Close the open window, or drop it."""
        if keep:
            database.execute("UPDATE window SET closed = ? WHERE number = ?", (self._now(), number))
        else:
            database.execute("DELETE FROM window WHERE number = ?", (number,))

    def _close_late(self, database: sqlite3.Connection) -> None:
        """An open window whose time is over, or that is full by a new rule, is closed; an empty one begins now."""
        now, rule = self._now(), _rule(database)
        times = now, now - rule.seconds
        database.execute("UPDATE window SET opened = ? WHERE closed IS NULL AND opened <= ? AND rows = 0", times)
        late = "UPDATE window SET closed = ? WHERE closed IS NULL AND (opened <= ? OR rows >= ?)"
        database.execute(late, (*times, rule.rows))


_SELECT = "SELECT number, version, layout, rows, opened, closed, reported, labelled, counts FROM window"


def _is_id(request: str) -> bool:
    """Whether answers may wait under it; the database takes no half of a surrogate pair, which JSON can write."""
    return 0 < len(request) <= MOST_REQUEST and is_unicode(request)


def _packed(answers: WaitingAnswers) -> bytes:
    return np.concatenate([answers.chosen[:, None], answers.raw], axis=1).astype("<f4").tobytes()


def _rule(database: sqlite3.Connection) -> WindowRule:
    row = database.execute("SELECT rows, seconds FROM rule").fetchone()
    return WindowRule() if row is None else WindowRule(*row)


def _insert(
    database: sqlite3.Connection, version: int, layout: str, counts: Counts, rows: int, now: int, closed: int | None,
    number: int | None = None,
) -> int:  # fmt: skip
    """A new window; its number, which follows the last one where none is given."""
    cursor = database.execute(
        "INSERT INTO window (number, version, layout, rows, opened, closed, counts) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, version, layout, rows, now, closed, counts.astype("<f8").tobytes()),
    )
    return int(cursor.lastrowid or 0)


def _forget(database: sqlite3.Connection) -> None:
    database.execute(
        "DELETE FROM window WHERE closed IS NOT NULL AND number NOT IN "
        "(SELECT number FROM window WHERE closed IS NOT NULL ORDER BY number DESC LIMIT ?)",
        (MOST_CLOSED,),
    )


def _window(row: Sequence[Any]) -> PredictionWindow:
    number, version, layout, rows, opened, closed, reported, labelled, data = row
    channels = json.loads(layout)
    pieces = np.split(np.frombuffer(data, "<f8").astype(np.float64), np.cumsum([bins for _, bins in channels])[:-1])
    counts = {name: piece for (name, _), piece in zip(channels, pieces, strict=True)}
    return PredictionWindow(number, version, rows, opened, closed, bool(reported), labelled, counts)
