"""The folder of a sweep: one folder per cell, named by its content, complete or absent.

sweep.json              what was asked for
cells/KEY/cell.json     how the cell ended
cells/KEY/run.json      its run, with events.jsonl and ledger.sqlite; `fedinfer report` reads it
cells/KEY.N.part/       a cell in flight; what a kill leaves is removed by the next sweep
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from fedinfer.coordinator import plain
from fedinfer.errors import ConfigError, StoreError
from fedinfer.private_files import only_owner, private_folder
from fedinfer.types import Json

CELLS, QUESTION, CELL, LOCK = "cells", "sweep.json", "cell.json", ".lock"
PART = ".part"
BULKY = ("artifacts", "checkpoints", "devices", "rollout.sqlite", "state")
"""What a sweep removes from a run's folder unless it is told to keep it."""


class CellStatus(StrEnum):
    """How a cell ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    """The run began and ended early: what it spent is spent."""
    REFUSED = "refused"
    """Nothing ran: no plan fits."""
    FAILED = "failed"
    """The machine's fault, not the scenario's: tried again by the next sweep."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended, and what it took.

    Args:
        status: see `CellStatus`.
        reason: why it is not completed; else empty.
        hint: what helps; may be empty.
        seconds: wall time, without the start of the process.
        cpu_seconds: of its process.
    """

    status: CellStatus
    reason: str = ""
    hint: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Make or take up the folder of a sweep, for this process alone.

    Args:
        folder: absent, empty, or of a sweep.

    Raises:
        ConfigError: it holds something else, or another sweep uses it now.
        StoreError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", hint="choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CELLS).is_dir():
        raise ConfigError(f"{folder} is not empty and holds no sweep", hint="choose another --out")
    try:
        private_folder(folder)
        private_folder(folder / CELLS)
        lock = open(folder / LOCK, "w", opener=only_owner)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="choose a folder you may write to with --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder}: another sweep writes there now", hint="wait for it, or end it") from error
        for left in (folder / CELLS).glob(f"*{PART}"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def part_of(folder: Path, key: str, number: int) -> Path:
    """Where a cell runs until it is complete.

    Args:
        folder: of the sweep.
        key: of the cell.
        number: of the process that runs it: what an earlier one left is not in its way.
    """
    return folder / CELLS / f"{key}.{number}{PART}"


def finish(part: Path, outcome: Outcome, keep: bool) -> None:
    """Say how a cell ended, and give its folder its name: from now on it is there.

    Args:
        part: where it ran.
        outcome: how it ended.
        keep: models and stores of devices too.

    Raises:
        OSError: it cannot be written.
    """
    for name in () if keep else BULKY:
        path = part / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    write(part / CELL, {"schema": 1, **asdict(outcome)})
    target = part.parent / part.name.split(".", 1)[0]
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def found(folder: Path, key: str) -> Outcome | None:
    """How a cell ended, where it is complete and need not be tried again.

    Args:
        folder: of the sweep.
        key: of the cell.
    """
    try:
        fields = json.loads((folder / CELLS / key / CELL).read_text(encoding="utf-8"))
        fields.pop("schema")
        outcome = Outcome(**fields | {"status": CellStatus(fields["status"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if outcome.status is CellStatus.FAILED else outcome


def record_of(folder: Path, key: str) -> Json | None:
    """run.json of a cell; None where nothing ran.

    Args:
        folder: of the sweep.
        key: of the cell.
    """
    try:
        record: Json = json.loads((folder / CELLS / key / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def write(path: Path, document: Json) -> None:
    """Write a JSON document, whole or not at all.

    Args:
        path: of the file.
        document: numbers may be infinite; they become text.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, json.dumps(plain(document), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text for its owner alone, whole or not at all.

    Args:
        path: of the file.
        text: its content.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(path.name + PART)
    with open(temporary, "w", encoding="utf-8", newline="", opener=only_owner) as file:
        file.write(text)
    os.replace(temporary, path)
