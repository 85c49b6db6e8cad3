"""Signed requests in the database of a server: handed in by anybody, carried out by the one who drives rollouts.

Rules:
* What a request changes, its place in the audit log and what became of it are written together or not at all. A server
  that is killed has carried it out or not begun.
* The log holds every request that was carried out, as it was signed, so whoever has the operators' keys can check it.
  Of a refused one it holds the digest and the reason.
* A start is carried out by whoever reaches the devices; anybody else leaves it as it was handed in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from fedinfer.errors import ArtifactRejected, BadMessage, ConfigError
from fedinfer.rollout.controller import Command, RolloutState
from fedinfer.rollout.requests import (
    Asked,
    Earlier,
    Judged,
    Operators,
    Standing,
    StartRequest,
    Verify,
    digest_of,
    judge_request,
    read_order,
)
from fedinfer.rollout.state import RolloutStore
from fedinfer.types import Json

Begin: TypeAlias = Callable[[StartRequest], RolloutState]
"""Signs the version that is asked for and plans its rollout; ConfigError and ArtifactRejected refuse the request."""


@dataclass(frozen=True, slots=True)
class Handled:
    """A request and what became of it.

    Args:
        digest: of its bytes, 64 hexadecimal digits.
        request: as it was signed; whether by whom it says, `standing` tells.
        standing: SUBMITTED before it was judged.
        why: of a refusal, or what is waited for.
    """

    digest: str
    request: Asked
    standing: Standing
    why: str

    def to_json(self) -> Json:
        """For people and programs."""
        asked = self.request
        more: Json = {}
        if isinstance(asked, StartRequest):
            more = {"version": str(asked.version), "waves": list(asked.waves)}
        return {
            "request": self.digest,
            "rollout": asked.rollout,
            "order": str(asked.order),
            "wave": asked.wave,
            "by": asked.by,
            "reason": asked.reason,
            "standing": str(self.standing),
            "why": self.why,
            **more,
        }


class OrderInbox:
    """The requests to one server.

    Args:
        store: its rollouts.
    """

    def __init__(self, store: RolloutStore) -> None:
        self._store = store

    def submit(self, data: bytes, now: datetime) -> str:
        """Hand a signed request in; nothing happens before `carry_out`.

        Args:
            data: encoded `SignedOrder`, untrusted.
            now: wall-clock time, timezone-aware.

        Returns:
            Its digest.

        Raises:
            ConfigError: it cannot be read, or was handed in before.
            StoreError: nothing was written.
        """
        try:
            read_order(data)
        except BadMessage as error:
            raise ConfigError(f"this is no signed order: {error}") from error
        digest = digest_of(data)
        row = (digest, data, now.isoformat(), str(Standing.SUBMITTED), "")
        with self._store.changing() as db:
            if db.execute("SELECT 1 FROM rollout_request WHERE digest = ?", (digest,)).fetchone():
                raise ConfigError("this request was handed in before", hint="sign a new one")
            db.execute(
                "INSERT INTO rollout_request (digest, data, received, standing, why) VALUES (?, ?, ?, ?, ?)", row
            )
        return digest

    def requests(self) -> tuple[Handled, ...]:
        """All requests, oldest first."""
        with self._store.changing() as db:
            return tuple(map(_handled, _rows(db)))

    def carry_out(
        self, operators: Operators, now: datetime, verify: Verify, begin: Begin | None = None
    ) -> tuple[Handled, ...]:
        """Judge all requests that were handed in, and give to the rollouts what is carried out.

        Args:
            operators: who may give orders.
            now: wall-clock time, timezone-aware.
            verify: checks a signature.
            begin: of who reaches the devices; None: a start that nothing speaks against stays as it is.

        Returns:
            What was judged now, oldest first.

        Raises:
            LogTampered: the state of a rollout is not the one that its last log entry speaks of.
            StoreError: one request, and those after it, are as before.
        """
        waiting = [each for each in self.requests() if each.standing is Standing.SUBMITTED]
        found = (self._one(each.digest, operators, now, verify, begin) for each in waiting)
        return tuple(each for each in found if each.standing is not Standing.SUBMITTED)

    def _one(self, digest: str, operators: Operators, now: datetime, verify: Verify, begin: Begin | None) -> Handled:
        with self._store.changing() as db:
            rows = {row[0]: row for row in _rows(db)}
            data, asked = rows[digest][1], _handled(rows[digest]).request
            newest = self._store.names()[-1:] == (asked.rollout,)
            state = self._store.load(asked.rollout) if newest else None
            earlier = [Earlier(read_order(row[1]), Standing(row[2])) for row in rows.values()]
            earlier = [each for each in earlier if each.standing is not Standing.SUBMITTED]
            judged = judge_request(operators, earlier, state, data, int(now.timestamp()), verify)
            if judged.standing is Standing.DONE:
                others = {key: row[1] for key, row in rows.items() if read_order(row[1]) in judged.together}
                signed = {**others, digest: data}
                if judged.command is not None:
                    judged = self._obey(db, asked.rollout, judged.command, signed, now)
                elif isinstance(asked, StartRequest):
                    if begin is None:
                        return Handled(digest, asked, Standing.SUBMITTED, "")
                    judged = self._begin(db, begin, asked, judged.by, signed, now)
            if judged.standing is not Standing.DONE and state is not None:
                self._note(db, state, judged, data, now)
            _mark(db, digest, judged)
        return Handled(digest, asked, judged.standing, judged.why)

    def _obey(
        self, db: sqlite3.Connection, rollout: str, command: Command, signed: dict[str, bytes], now: datetime
    ) -> Judged:
        """Give an order to the rollout; its phase may refuse it."""
        facts = {"requests": [data.hex() for data in signed.values()]}
        try:
            self._store.apply_in(db, rollout, command, now, facts)
        except ConfigError as error:
            return Judged(Standing.REFUSED, str(error))
        return _all_done(db, signed)

    def _begin(
        self, db: sqlite3.Connection, begin: Begin, asked: StartRequest, by: str, signed: dict[str, bytes],
        now: datetime,
    ) -> Judged:  # fmt: skip
        """Start a rollout; what is signed for it before this is written is signed again by a process after this one."""
        requests = [data.hex() for data in signed.values()]
        facts: Json = {"by": by, "order": asked.order, "repeats": asked.version, "why": asked.reason}
        try:
            self._store.start_in(db, begin(asked), {**facts, "requests": requests}, now)
        except (ConfigError, ArtifactRejected) as error:
            return Judged(Standing.REFUSED, str(error))
        return _all_done(db, signed)

    def _note(self, db: sqlite3.Connection, state: RolloutState, judged: Judged, data: bytes, now: datetime) -> None:
        """A refused request is a claim: the log names who it says it is from, as such."""
        asked, waits = read_order(data).request, judged.standing is Standing.WAITING
        body: Json = {"order": str(asked.order), "reason": judged.why, "request": digest_of(data)}
        body |= {"by": asked.by, "why": asked.reason, "requests": [data.hex()]} if waits else {"claimed": asked.by}
        self._store.note_in(db, state, "asked" if waits else "refused", body, now)


def _rows(db: sqlite3.Connection) -> list[tuple[str, bytes, str, str]]:
    return db.execute("SELECT digest, data, standing, why FROM rollout_request ORDER BY number").fetchall()


def _handled(row: tuple[str, bytes, str, str]) -> Handled:
    digest, data, standing, why = row
    return Handled(digest, read_order(data).request, Standing(standing), why)


def _all_done(db: sqlite3.Connection, signed: dict[str, bytes]) -> Judged:
    done = Judged(Standing.DONE)
    for digest in signed:
        _mark(db, digest, done)
    return done


def _mark(db: sqlite3.Connection, digest: str, judged: Judged) -> None:
    query = "UPDATE rollout_request SET standing = ?, why = ? WHERE digest = ?"
    db.execute(query, (str(judged.standing), judged.why, digest))
