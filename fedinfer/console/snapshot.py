"""What the console shows, read from the files of a run folder; what cannot be read is said and never stops the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.errors import ConfigError, FedInferError
from fedinfer.report import read_run
from fedinfer.rollout import (
    WENT_BACK,
    OrderInbox,
    RolloutStore,
    is_under_way,
    log,
    possible_orders,
    read_operators,
    status,
)
from fedinfer.types import Json

FILES = (
    "run.json", "events.jsonl", "ledger.sqlite", "ledger.sqlite-wal", "rollout.sqlite", "rollout.sqlite-wal",
    "operators.json",
)  # fmt: skip
MOST_ROLLOUTS, MOST_LINES = 5, 40


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as the server knows it.

    Args:
        name: of the device.
        version: that it acknowledged last; empty: none.
        at: when, ISO 8601.
        problem: why it does not run the newest version, in its words.
    """

    name: str
    version: str
    at: str
    problem: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run folder at one moment.

    Args:
        run: run.json, empty before the first run.
        events: of the newest run, oldest first.
        ledger: accounts and entries of the server's ledger.
        rollouts: newest first, with the orders that are possible now.
        requests: signed orders, newest first.
        lines: entries of the audit log, newest first.
        devices: by name.
        operators: names of those who may sign; None: there is no list.
        notes: what could not be read.
    """

    run: Json
    events: tuple[Json, ...]
    ledger: Json
    rollouts: tuple[Json, ...]
    requests: tuple[Json, ...]
    lines: tuple[Json, ...]
    devices: tuple[DeviceRow, ...]
    operators: tuple[str, ...] | None
    notes: tuple[str, ...]


def fingerprint(folder: Path) -> str:
    """Changes when a file of the run folder does.

    Args:
        folder: of the server's runs.
    """
    found = []
    for name in FILES:
        try:
            about = (folder / name).stat()
        except OSError:
            continue
        found.append([name, about.st_size, about.st_mtime_ns])
    return json.dumps(found)


def read_snapshot(folder: Path) -> Snapshot:
    """Read a run folder.

    Args:
        folder: of the server's runs.
    """
    notes: list[str] = []
    try:
        files = read_run(folder)
        run, events, ledger = files.run, files.events, files.ledger
        notes += files.notes
    except ConfigError as error:
        run, events, ledger = {}, (), {}
        notes.append(str(error))
    rollouts: tuple[Json, ...] = ()
    requests: tuple[Json, ...] = ()
    lines: tuple[Json, ...] = ()
    devices: tuple[DeviceRow, ...] = ()
    try:
        if (folder / "rollout.sqlite").exists():
            store = RolloutStore(folder / "rollout.sqlite")
            try:
                names = store.names()
                devices = _devices(store, names)
                rollouts = tuple(_rollout(store, name, name == names[-1]) for name in names[::-1][:MOST_ROLLOUTS])
                requests = tuple(each.to_json() for each in OrderInbox(store).requests()[::-1][:MOST_LINES])
                lines = tuple(log.entry(line) for line in store.log_lines()[::-1][:MOST_LINES])
            finally:
                store.close()
    except FedInferError as error:
        notes.append(str(error))
    return Snapshot(run, events, ledger, rollouts, requests, lines, devices, _operators(folder, notes), tuple(notes))


def _operators(folder: Path, notes: list[str]) -> tuple[str, ...] | None:
    try:
        operators = read_operators(folder)
    except ConfigError as error:
        notes.append(str(error))
        return None
    return None if operators is None else tuple(sorted(operators.keys))


def _rollout(store: RolloutStore, name: str, newest: bool) -> Json:
    state = store.load(name)
    orders = [str(order) for order in possible_orders(state)] if newest else []
    may_start = newest and not is_under_way(state)
    return {**status(state), "orders": orders, "may_start": may_start, "went_back": len(store.went_back(name))}


def _devices(store: RolloutStore, names: Sequence[str]) -> tuple[DeviceRow, ...]:
    """The last answer of each device to a push or a rollback."""
    found: dict[str, DeviceRow] = {}
    for name in names:
        state, times = store.load(name), _times(store, name)
        back = f"{state.previous}, again" if state.previous else ""
        for device, wave, problem in sorted(store.answers(name), key=lambda row: (row[1] == WENT_BACK, row[1])):
            before = found.get(device, DeviceRow(device, "", "", ""))
            version = before.version if problem else back if wave == WENT_BACK else state.version
            found[device] = DeviceRow(device, version, times.get(wave, ""), problem)
    return tuple(found[device] for device in sorted(found))


def _times(store: RolloutStore, name: str) -> dict[int, str]:
    entries = [log.entry(line) for line in store.log_lines(name)]
    return {entry["body"]["wave"] - 1: str(entry["at"]) for entry in entries if entry["kind"] == "acknowledged"}
