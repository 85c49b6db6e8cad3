"""Rollouts in SQLite: state, acknowledgements and audit log change together or not at all.

Rules:
* `apply` reads, steps, and writes state and log entry in one transaction, before anybody acts on the result. A server
  that is killed reads its state, asks `todo`, and goes on; every action may be done twice.
* Acknowledgements are kept device by device, so a wave that was half delivered is continued, not started again. The log
  holds a digest of those of each wave, so no acknowledgement can be changed, added or removed without a trace.
* Every entry holds the digest of the state after it. A state that somebody else wrote is not driven on, and `verify`
  reports it.
* The log refuses UPDATE, DELETE and INSERT OR REPLACE in the database itself; the hash chain shows what went past that.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import final

from fedinfer import wire
from fedinfer.errors import ConfigError, LogTampered, StoreError
from fedinfer.rollout import log
from fedinfer.rollout.controller import (
    Action,
    Command,
    Delivered,
    Event,
    Measured,
    RolledBack,
    RolloutState,
    step,
    todo,
)
from fedinfer.rollout.summary import facts_of
from fedinfer.rollout.tables import APPEND_ONLY, BOUND, REFUSED, ROLLOUT_MIGRATIONS, WENT_BACK, acknowledged
from fedinfer.store import open_store, transaction
from fedinfer.types import DeviceId, Json

_KINDS: dict[type[Event], str] = {
    Command: "command",
    Delivered: "delivered",
    Measured: "measured",
    RolledBack: "takenback",
}
"""Names of events in the audit log. They are part of its format: a class may be renamed, these may not."""


@final
class RolloutStore:
    """All rollouts of one server.

    Args:
        path: SQLite file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_store(path, "rollout", ROLLOUT_MIGRATIONS)
        # Not part of the migrations: those are split at semicolons, and a trigger has one inside.
        try:
            for verb, when in REFUSED.items():
                self._connection.execute(APPEND_ONLY.format(verb=verb, when=when))
        except sqlite3.Error as error:
            self._connection.close()
            raise StoreError(f"{path}: {error}", hint="the database is not writable or not complete") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def start(self, state: RolloutState, by: str, now: datetime) -> tuple[Action, ...]:
        """Keep a new rollout.

        Args:
            state: from `controller.begin`.
            by: name of the person, for the log.
            now: wall-clock time, timezone-aware.

        Returns:
            What to do first.

        Raises:
            ConfigError: when the name is taken.
            StoreError: nothing was written.
        """
        with self.changing() as db:
            self.start_in(db, state, {"by": by}, now)
        return todo(state)

    def start_in(self, db: sqlite3.Connection, state: RolloutState, facts: Json, now: datetime) -> None:
        """As `start`, as a part of a transaction.

        Args:
            db: from `changing`.
            state: from `controller.begin`.
            facts: for the log entry: who, and why.
            now: wall-clock time, timezone-aware.
        """
        if db.execute("SELECT 1 FROM rollout WHERE name = ?", (state.rollout,)).fetchone():
            raise ConfigError(f"rollout {state.rollout!r} exists already")
        number = db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM rollout").fetchone()[0]
        encoded = wire.encode(state)
        db.execute("INSERT INTO rollout VALUES (?, ?, ?, ?)", (state.rollout, number, encoded, now.isoformat()))
        body: Json = {**facts, "version": state.version, "previous": state.previous, "phase": str(state.phase)}
        body["format"] = BOUND
        body |= {"waves": [wave.size for wave in state.waves], "state": _digest(encoded)}
        self._append(db, now, "start", state.rollout, body)

    def names(self) -> tuple[str, ...]:
        """All rollouts, oldest first."""
        return tuple(row[0] for row in self._connection.execute("SELECT name FROM rollout ORDER BY number"))

    def load(self, rollout: str) -> RolloutState:
        """Read a rollout.

        Args:
            rollout: name.

        Raises:
            ConfigError: when there is none of that name.
            LogTampered: when the state is not the one that the last log entry speaks of.
        """
        row = self._connection.execute("SELECT state FROM rollout WHERE name = ?", (rollout,)).fetchone()
        if row is None:
            raise ConfigError(f"there is no rollout {rollout!r}", hint=f"known: {', '.join(self.names()) or 'none'}")
        self._check_state(rollout, row[0])
        return wire.decode(RolloutState, row[0])

    def apply(self, rollout: str, event: Event, now: datetime) -> tuple[RolloutState, tuple[Action, ...]]:
        """Take in one event, durably; see `fedinfer.rollout.controller.step`.

        Args:
            rollout: name.
            event: an order or something that happened.
            now: wall-clock time, timezone-aware.

        Returns:
            The state after it and what to do now; both are on disk.

        Raises:
            ConfigError: there is no such rollout, or the order makes no sense in its phase.
            BadMessage: figures of another wave, or more canary evaluations than allowed.
            LogTampered: the state is not the one that the last log entry speaks of.
            StoreError: nothing was written, so nothing must be done.
        """
        with self.changing() as db:
            return self.apply_in(db, rollout, event, now, {})

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, for `apply_in`, `note_in` and other tables of this file.

        Raises:
            StoreError: nothing was written.
        """
        with transaction(self._connection) as db:
            yield db

    def apply_in(
        self, db: sqlite3.Connection, rollout: str, event: Event, now: datetime, extra: Json
    ) -> tuple[RolloutState, tuple[Action, ...]]:
        """As `apply`, as a part of a transaction.

        Args:
            db: from `changing`.
            rollout: name.
            event: an order or something that happened.
            now: wall-clock time, timezone-aware.
            extra: more facts for the log entry.
        """
        before = self.load(rollout)
        after, actions = step(before, event)
        changed = (wire.encode(after), now.isoformat(), rollout)
        db.execute("UPDATE rollout SET state = ?, changed = ? WHERE name = ?", changed)
        body = {"from": str(before.phase), "to": str(after.phase), "reason": after.reason, **facts_of(before, event)}
        self.note_in(db, after, _KINDS[type(event)], {**body, **extra}, now)
        return after, actions

    def note_in(self, db: sqlite3.Connection, state: RolloutState, kind: str, body: Json, now: datetime) -> None:
        """Write a log entry, as a part of a transaction.

        Args:
            db: from `changing`.
            state: of the rollout, as it is kept.
            kind: what happened.
            body: JSON-able facts.
            now: wall-clock time, timezone-aware.
        """
        self._append(db, now, kind, state.rollout, {**body, "state": _digest(wire.encode(state))})

    def acknowledge(self, rollout: str, wave: int, outcomes: Mapping[DeviceId, str], now: datetime) -> None:
        """Keep what devices answered to a push, or to a rollback; the last answer of a device counts.

        Args:
            rollout: name.
            wave: counted from 0; WENT_BACK for a rollback.
            outcomes: by device: "" for done, else the problem in words.
            now: wall-clock time, timezone-aware.

        Raises:
            StoreError: nothing was written.
        """
        with transaction(self._connection) as db:
            db.executemany(
                "INSERT INTO rollout_ack VALUES (?, ?, ?, ?) "
                "ON CONFLICT(rollout, wave, device) DO UPDATE SET problem = excluded.problem",
                [(rollout, wave, device, problem) for device, problem in outcomes.items()],
            )
            failed, total, digest = acknowledged(db, rollout, wave)
            body: Json = {"wave": wave + 1, "done": total - failed, "failed": failed, "acknowledged": digest}
            self.note_in(db, self.load(rollout), "acknowledged", body, now)

    def waiting(self, rollout: str, wave: int, members: Iterable[DeviceId]) -> tuple[DeviceId, ...]:
        """Members of a wave that have not answered yet.

        Args:
            rollout: name.
            wave: counted from 0.
            members: from `waves.members`.

        Returns:
            In the given order.
        """
        rows = self._connection.execute(
            "SELECT device FROM rollout_ack WHERE rollout = ? AND wave = ?", (rollout, wave)
        )
        heard = {row[0] for row in rows}
        return tuple(device for device in members if device not in heard)

    def delivered(self, rollout: str, wave: int) -> Delivered:
        """The acknowledgements of a wave in the form of an event.

        Args:
            rollout: name.
            wave: counted from 0.
        """
        failed, total, _ = acknowledged(self._connection, rollout, wave)
        return Delivered(wave, total - failed, failed)

    def installed(self, rollout: str, wave: int | None = None) -> tuple[DeviceId, ...]:
        """Devices that acknowledged the model.

        Args:
            rollout: name.
            wave: counted from 0; None for all waves.

        Returns:
            Sorted, each once.
        """
        rows = self._connection.execute(
            "SELECT DISTINCT device FROM rollout_ack WHERE rollout = ? AND problem = '' "
            "AND wave = COALESCE(?, wave) AND wave <> ? ORDER BY device",
            (rollout, wave, WENT_BACK),
        )
        return tuple(row[0] for row in rows)

    def problems(self, rollout: str) -> dict[DeviceId, str]:
        """Devices that could not install, with their words.

        Args:
            rollout: name.

        Returns:
            Sorted by device; of a device in several waves, the last one.
        """
        return dict(
            self._connection.execute(
                "SELECT device, problem FROM rollout_ack WHERE rollout = ? AND problem <> '' AND wave <> ? "
                "ORDER BY device",
                (rollout, WENT_BACK),
            ).fetchall()
        )

    def answers(self, rollout: str) -> tuple[tuple[DeviceId, int, str], ...]:
        """What devices answered to pushes and rollbacks.

        Args:
            rollout: name.

        Returns:
            (device, wave counted from 0 or WENT_BACK, "" or the problem in words), by device.
        """
        query = "SELECT device, wave, problem FROM rollout_ack WHERE rollout = ? ORDER BY device, wave"
        return tuple(self._connection.execute(query, (rollout,)).fetchall())

    def went_back(self, rollout: str) -> dict[DeviceId, str]:
        """What devices answered to a rollback: "" for done, else the problem in words.

        Args:
            rollout: name.
        """
        query = "SELECT device, problem FROM rollout_ack WHERE rollout = ? AND wave = ? ORDER BY device"
        return dict(self._connection.execute(query, (rollout, WENT_BACK)).fetchall())

    def log_lines(self, rollout: str = "") -> list[str]:
        """Lines of the audit log, oldest first.

        Args:
            rollout: name; "" for the log of all.

        Returns:
            For `log.dump`; without line breaks.
        """
        rows = self._connection.execute(
            "SELECT line FROM rollout_log WHERE rollout = ? OR ? = '' ORDER BY seq", (rollout, rollout)
        )
        return [_text(row[0]) for row in rows]

    def head(self) -> log.Head:
        """End of the audit log as the last entry says; `verify` checks the way there.

        Raises:
            LogTampered: the last entry cannot be read.
        """
        row = self._connection.execute("SELECT line FROM rollout_log ORDER BY seq DESC LIMIT 1").fetchone()
        if row is None:
            return log.EMPTY
        last = log.entry(row[0])
        return log.Head(last["seq"], last["digest"])

    def verify(self, expected: log.Head | None) -> log.Head:
        """Check the whole audit log, and each rollout's state against its last entry.

        Args:
            expected: a head that was kept elsewhere; None cannot see a cut-off end.

        Returns:
            The head of the log.

        Raises:
            LogTampered: with the first line, or the rollout, that does not fit.
        """
        for seq, rollout, line in self._connection.execute("SELECT seq, rollout, line FROM rollout_log ORDER BY seq"):
            facts = log.entry(line) if isinstance(line, str) else {}
            body = facts.get("body")
            if facts.get("seq") != seq or not isinstance(body, dict) or body.get("rollout") != rollout:
                raise LogTampered(f"audit log line {seq} is not kept under its own number and rollout")
        head = log.verify((line.encode(errors="backslashreplace") for line in self.log_lines()), expected)
        states = dict(self._connection.execute("SELECT name, state FROM rollout").fetchall())
        logged = {row[0] for row in self._connection.execute("SELECT DISTINCT rollout FROM rollout_log")}
        for rollout in sorted(logged | set(states), key=str):
            self._check_state(rollout, states.get(rollout))
            self._check_acknowledged(rollout)
        return head

    def _check_acknowledged(self, rollout: str) -> None:
        """Raise LogTampered unless the acknowledgements of each wave are those that the log speaks of last."""
        entries = [log.entry(line) for line in self.log_lines(rollout)]
        if not entries or entries[0]["body"].get("format") != BOUND:
            return
        logged = {
            entry["body"]["wave"] - 1: entry["body"]["acknowledged"]
            for entry in entries
            if entry["kind"] == "acknowledged"
        }
        query = "SELECT DISTINCT wave FROM rollout_ack WHERE rollout = ?"
        kept = {row[0] for row in self._connection.execute(query, (rollout,))}
        for wave in sorted(kept | set(logged)):
            if logged.get(wave) != acknowledged(self._connection, rollout, wave)[2]:
                raise LogTampered(
                    f"rollout {rollout!r}: the acknowledgements of wave {wave + 1} are not those of its log",
                    hint="the database was changed from outside; restore a backup and compare it with the kept head",
                )

    def _check_state(self, rollout: str, state: object) -> None:
        """Raise LogTampered unless the last entry of a rollout holds the digest of this state."""
        query = "SELECT line FROM rollout_log WHERE rollout = ? ORDER BY seq DESC LIMIT 1"
        row = self._connection.execute(query, (rollout,)).fetchone()
        body = log.entry(_text(row[0])).get("body") if row else None
        expected = body.get("state") if isinstance(body, dict) else None
        found = _digest(state) if isinstance(state, bytes) else "nothing"
        if found != expected:
            raise LogTampered(
                f"rollout {rollout!r}: its state has digest {found[:16]}, its log says {str(expected)[:16]}",
                hint="the database was changed from outside; restore a backup and compare it with the kept head",
            )

    def _append(self, db: sqlite3.Connection, now: datetime, kind: str, rollout: str, body: Json) -> None:
        line, head = log.entry_line(self.head(), now, kind, {"rollout": rollout, **body})
        db.execute("INSERT INTO rollout_log VALUES (?, ?, ?)", (head.count, rollout, line))


def _digest(state: bytes) -> str:
    """SHA-256 of an encoded state, hexadecimal."""
    return hashlib.sha256(state).hexdigest()


def _text(line: str | bytes) -> str:
    """SQLite keeps any type in any column: bytes in the log are somebody else's, to be shown and not to fail on."""
    return line if isinstance(line, str) else str(line)
