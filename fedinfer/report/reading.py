"""The files of a run folder as plain values; a missing or half-written side file costs its plot, never the report."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedinfer.errors import ConfigError, FedInferError
from fedinfer.privacy import Ledger
from fedinfer.store import read_store
from fedinfer.types import Json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run left behind.

    Args:
        run: run.json, schema 1.
        events: lines of events.jsonl about this run in order; unreadable lines are counted in `notes`.
        ledger: accounts and entries of the server's ledger, as `fedinfer privacy ledger --json` shows them.
        notes: what could not be read, in words.
    """

    run: Json
    events: tuple[Json, ...]
    ledger: Json
    notes: tuple[str, ...]


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Args:
        folder: of a run; events.jsonl and the ledger may be missing or damaged, which becomes a note.

    Raises:
        ConfigError: when run.json is missing, no JSON object or of another schema.
    """
    run = _read_run_json(folder / "run.json")
    events, notes = _read_events(folder / "events.jsonl", run.get("run_id"))
    ledger, more = _read_ledger(folder / "ledger.sqlite")
    return RunFiles(run, events, ledger, (*notes, *more))


def _read_run_json(path: Path) -> Json:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="give the folder that `fedinfer run --out DIR` wrote") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a JSON object is expected, not {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path}: schema {data.get('schema')!r}, this version reads schema {SCHEMA}",
            hint="use the version of fedinfer that wrote the run",
        )
    return data


def _read_events(path: Path, run_id: object) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    """Events of a run and a note. The last line of a killed run may be cut off: a bad line is left out and counted."""
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return (), ("events.jsonl is missing: the timeline is drawn from run.json alone.",)
    found = [_event(line) for line in lines]
    bad = sum(1 for line in lines if line.strip()) - sum(event is not None for event in found)
    events = tuple(event for event in _happened(found) if event.get("run_id", run_id) == run_id)
    return events, ((f"events.jsonl: {bad} unreadable line(s) left out.",) if bad else ())


def _happened(lines: Sequence[Json | None]) -> list[Json]:
    """Events without those of a simulation that went back to an earlier step when another process took it up."""
    kept: list[Json | None] = []
    for event in lines:
        resumed = event.get("resumed") if event is not None and event.get("event") == "started" else None
        if isinstance(resumed, dict) and isinstance(back := resumed.get("lines"), int):
            kept[back:] = [None] * (len(kept) - min(back, len(kept)))
        kept.append(event)
    return [event for event in kept if event is not None]


def _read_ledger(path: Path) -> tuple[Json, tuple[str, ...]]:
    """The ledger and a note, for instance when it is missing."""
    if not path.exists():
        return {}, ("ledger.sqlite is missing: its entries are not shown.",)
    try:
        with closing(read_store(path)) as connection:
            return Ledger(connection).to_json(), ()
    except (FedInferError, sqlite3.Error) as error:
        return {}, (f"ledger.sqlite cannot be read: {error}",)


def _event(line: str) -> Json | None:
    try:
        data: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
