"""The folder of a run: made when the input is known to be good, and events.jsonl, one line per event."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedinfer.coordinator import plain
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Clock
from fedinfer.private_files import only_owner, private_folder

EVENTS = "events.jsonl"
LOCK = "coordinator.lock"


class EventLog:
    """Appends events to events.jsonl. Each line is complete or absent.

    Args:
        folder: run folder.
        clock: stamps each line.
        run_id: of the run, in each line; a folder may have several.
    """

    def __init__(self, folder: Path, clock: Clock, run_id: str) -> None:
        self._path, self._clock, self._run_id, self._mended = folder / EVENTS, clock, run_id, False

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        """Write one event.

        Raises:
            StoreError: when the disk refuses, for instance because it is full.
        """
        time = self._clock.now().isoformat(timespec="milliseconds")
        stamped = {"event": name, "time": time, "run_id": self._run_id, **fields}
        if not self._mended:
            self._mend()
        try:
            with open(self._path, "a", encoding="utf-8", opener=only_owner) as file:
                file.write(json.dumps(plain(stamped), allow_nan=False) + "\n")
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}", hint="free space, or choose another --out") from error

    def _mend(self) -> None:
        """End the half line of a process that was killed, so that the next event has a line of its own."""
        self._mended = True
        try:
            with open(self._path, "rb+", opener=only_owner) as file:
                size = file.seek(0, os.SEEK_END)
                if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
                    file.write(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error


def count_lines(folder: Path) -> int:
    """Lines of events.jsonl so far.

    Args:
        folder: of the run.
    """
    path = folder / EVENTS
    return path.read_bytes().count(b"\n") if path.exists() else 0


class FolderInUse(ConfigError):
    """Another process works on the run folder."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the one coordinator of a run folder; the system ends that when the process ends, however it ends.

    Args:
        folder: of the run.

    Raises:
        FolderInUse: another process works on it.
        StoreError: the folder cannot be written.
    """
    path = folder / LOCK
    try:
        with open(path, "a+", encoding="utf-8", opener=only_owner) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise FolderInUse(
                    f"{folder}: the process {file.read().strip() or '?'} works on this run folder",
                    hint="wait for its end, or stop it; two coordinators of one folder would undo each other's work",
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="choose a folder you may write to") from error


def new_folder(wanted: Path | None, scenario: str, clock: Clock) -> Path:
    """Make the folder of a run, for its owner alone.

    Args:
        wanted: where the user wants it; must be absent or empty. None: runs/<scenario>-<time>.
        scenario: name for the default folder.
        clock: time for the default folder.

    Raises:
        ConfigError: when it holds something already.
        StoreError: when it cannot be made.
    """
    path = wanted or Path("runs") / f"{scenario}-{clock.now():%Y%m%d-%H%M%S-%f}"
    try:
        if path.is_dir() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty", hint="choose another --out, or remove it")
        private_folder(path)
        probe = path / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="choose a folder you may write to with --out") from error
    return path
