"""Where a device keeps the secrets of a running private sum between two messages.

In deployment every message may run in a fresh process, so the state lives in the device's own database and is
overwritten and deleted when the round ends. A simulation keeps it in memory.

Rule: a state is left once. Two processes that answer for one device at the same time both start from the same state;
only the first may move on, and the other's answer is never sent. Else a server could have two key lists shared or two
survivor sets opened in one round, which together give both masks of one device away.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Protocol

from fedinfer.errors import Misbehaviour
from fedinfer.messages import Kind, ScheduledRound
from fedinfer.store import transaction
from fedinfer.types import DeviceId

SESSION_MIGRATIONS = (
    """CREATE TABLE session (
        device TEXT NOT NULL, round_id TEXT NOT NULL, stage TEXT NOT NULL, plan BLOB NOT NULL, state BLOB NOT NULL,
        run_id TEXT NOT NULL, PRIMARY KEY (device))""",
    """CREATE TABLE started (device TEXT NOT NULL, run_id TEXT NOT NULL, round_id TEXT NOT NULL,
        PRIMARY KEY (device, run_id, round_id))""",
    """CREATE TABLE turn (device TEXT NOT NULL, run_id TEXT NOT NULL, strategy BLOB NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (device, run_id))""",
)
_PATIENCE_MS = 30_000


@dataclass(frozen=True, slots=True)
class Running:
    """One device's part of a running sum.

    Args:
        round_id: the round; the same ids come again in other runs.
        stage: the stage that was answered last.
        plan: encoded `SumPlan`; empty for a sum without masks.
        state: encoded state of secure aggregation; it holds secrets and is never printed.
        run_id: the run.
    """

    round_id: str
    stage: Kind
    plan: bytes
    state: bytes
    run_id: str = ""

    def at(self, stage: Kind, state: bytes) -> Running:
        """The same round one stage further.

        Args:
            stage: the stage that was answered last.
            state: what the device remembers from now on, encoded.
        """
        return Running(self.round_id, stage, self.plan, state, self.run_id)

    def __repr__(self) -> str:
        return f"Running(round_id={self.round_id!r}, stage={self.stage})"


class Sessions(Protocol):
    """Running sums by device: at most one each; a finished or replaced round never comes back."""

    def take_scheduled(self, device: DeviceId, run_id: str, strategy: bytes, scheduled: ScheduledRound) -> None:
        """Take the device's place in a round whose noise is correlated with that of other rounds.

        Args:
            device: whose participations are counted.
            run_id: in which run.
            strategy: hash of what stays the same in all rounds.
            scheduled: index of the round, and how far apart a device's rounds are.

        Raises:
            Misbehaviour: too early after the device's last round, or another strategy; nothing is taken.
        """

    def begin(self, device: DeviceId, running: Running) -> None:
        """Start a round; an older round that still runs is forgotten.

        Args:
            device: that takes part.
            running: the state after its first stage.

        Raises:
            Misbehaviour: when this round was started before.
        """

    def load(self, device: DeviceId) -> Running:
        """Read the running round.

        Args:
            device: whose round.

        Raises:
            Misbehaviour: when there is none.
        """

    def advance(self, device: DeviceId, was: Running, now: Running) -> None:
        """Replace the state `was`; call it before the answer leaves.

        Args:
            device: whose round.
            was: the state from which the answer was computed.
            now: the state after it.

        Raises:
            Misbehaviour: the state is another one by now; nothing is changed.
        """

    def complete(self, device: DeviceId, was: Running) -> None:
        """Wipe the state `was`; call it before the last answer leaves.

        Args:
            device: whose round.
            was: the state from which the answer was computed.

        Raises:
            Misbehaviour: the state is another one by now; nothing is changed.
        """

    def finish(self, device: DeviceId) -> None:
        """Wipe whatever state there is.

        Args:
            device: whose round.
        """


class MemorySessions:
    """Sessions of simulated devices in this process."""

    def __init__(self) -> None:
        self._running: dict[DeviceId, Running] = {}
        self._seen: set[tuple[DeviceId, str, str]] = set()
        self._schedule: dict[tuple[DeviceId, str], tuple[bytes, int]] = {}

    def take_scheduled(self, device: DeviceId, run_id: str, strategy: bytes, scheduled: ScheduledRound) -> None:
        """As `Sessions.take_scheduled`."""
        _check_schedule(device, self._schedule.get((device, run_id)), strategy, scheduled)
        self._schedule[device, run_id] = strategy, scheduled.index

    def begin(self, device: DeviceId, running: Running) -> None:
        """As `Sessions.begin`."""
        if (device, running.run_id, running.round_id) in self._seen:
            raise Misbehaviour(f"round {running.round_id} was started before on device {device}")
        self._seen.add((device, running.run_id, running.round_id))
        self._running[device] = running

    def load(self, device: DeviceId) -> Running:
        """As `Sessions.load`."""
        if device not in self._running:
            raise Misbehaviour(f"device {device} has no running round")
        return self._running[device]

    def advance(self, device: DeviceId, was: Running, now: Running) -> None:
        """As `Sessions.advance`."""
        if self._running.get(device) != was:
            raise _overtaken(device, was)
        self._running[device] = now

    def complete(self, device: DeviceId, was: Running) -> None:
        """As `Sessions.complete`."""
        if self._running.get(device) != was:
            raise _overtaken(device, was)
        del self._running[device]

    def finish(self, device: DeviceId) -> None:
        """As `Sessions.finish`."""
        self._running.pop(device, None)


class StoredSessions:
    """Sessions in the device's database.

    Args:
        connection: opened with SESSION_MIGRATIONS; secure_delete is switched on and the log is emptied after a round,
            so that wiped keys leave no trace in the files. While another process uses the database the log stays; the
            next round's end empties it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA secure_delete=ON")
        self._connection = connection

    def take_scheduled(self, device: DeviceId, run_id: str, strategy: bytes, scheduled: ScheduledRound) -> None:
        """As `Sessions.take_scheduled`."""
        with transaction(self._connection) as database:
            row = database.execute(
                "SELECT strategy, last FROM turn WHERE device = ? AND run_id = ?", (device, run_id)
            ).fetchone()
            _check_schedule(device, (bytes(row[0]), int(row[1])) if row else None, strategy, scheduled)
            database.execute(
                "INSERT OR REPLACE INTO turn VALUES (?, ?, ?, ?)", (device, run_id, strategy, scheduled.index)
            )

    def begin(self, device: DeviceId, running: Running) -> None:
        """As `Sessions.begin`."""
        with transaction(self._connection) as database:
            name = (device, running.run_id, running.round_id)
            seen = database.execute(
                "SELECT 1 FROM started WHERE device = ? AND run_id = ? AND round_id = ?", name
            ).fetchone()
            if seen:
                raise Misbehaviour(f"round {running.round_id} was started before on device {device}")
            database.execute("INSERT INTO started VALUES (?, ?, ?)", name)
            database.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?, ?)", _row(device, running))

    def load(self, device: DeviceId) -> Running:
        """As `Sessions.load`."""
        row = self._connection.execute(
            "SELECT round_id, stage, plan, state, run_id FROM session WHERE device = ?", (device,)
        ).fetchone()
        if row is None:
            raise Misbehaviour(f"device {device} has no running round")
        return Running(str(row[0]), Kind(row[1]), bytes(row[2]), bytes(row[3]), str(row[4]))

    def advance(self, device: DeviceId, was: Running, now: Running) -> None:
        """As `Sessions.advance`."""
        with transaction(self._connection) as database:
            changed = database.execute(
                "UPDATE session SET stage = ?, state = ? "
                "WHERE device = ? AND run_id = ? AND round_id = ? AND stage = ? AND state = ?",
                (str(now.stage), now.state, *_mark(device, was)),
            )
            if changed.rowcount != 1:
                raise _overtaken(device, was)

    def complete(self, device: DeviceId, was: Running) -> None:
        """As `Sessions.complete`."""
        with transaction(self._connection) as database:
            wiped = database.execute(
                "DELETE FROM session WHERE device = ? AND run_id = ? AND round_id = ? AND stage = ? AND state = ?",
                _mark(device, was),
            )
            if wiped.rowcount != 1:
                raise _overtaken(device, was)
        self._empty_log()

    def finish(self, device: DeviceId) -> None:
        """As `Sessions.finish`."""
        with transaction(self._connection) as database:
            database.execute("DELETE FROM session WHERE device = ?", (device,))
        self._empty_log()

    def _empty_log(self) -> None:
        """SQLite's write-ahead log keeps old pages, and with them old keys, until it is written over."""
        self._connection.execute("PRAGMA busy_timeout=0")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._connection.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")


def _check_schedule(
    device: DeviceId, last: tuple[bytes, int] | None, strategy: bytes, scheduled: ScheduledRound
) -> None:
    if last is None:
        return
    if last[0] != strategy:
        raise Misbehaviour(
            f"device {device} has a participation schedule of another strategy: noise or rounds are not the same"
        )
    if scheduled.index - last[1] < scheduled.separation:
        raise Misbehaviour(
            f"round index {scheduled.index} on device {device} after {last[1]}: "
            f"{scheduled.separation} rounds apart were promised"
        )


def _overtaken(device: DeviceId, was: Running) -> Misbehaviour:
    return Misbehaviour(f"round {was.round_id} of device {device} left stage {was.stage} in another process")


def _mark(device: DeviceId, was: Running) -> tuple[str, str, str, str, bytes]:
    return device, was.run_id, was.round_id, str(was.stage), was.state


def _row(device: DeviceId, running: Running) -> tuple[str, str, str, bytes, bytes, str]:
    return device, running.round_id, str(running.stage), running.plan, running.state, running.run_id
