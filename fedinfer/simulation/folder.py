"""The folder of a run: made when the input is known to be good, and events.jsonl, one line per event."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fedinfer.coordinator import plain
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Clock
from fedinfer.printable import shown
from fedinfer.private_files import only_owner, private_folder

EVENTS = "events.jsonl"
LOCK = "coordinator.lock"
MOST_LAST_WORDS = 1000
"""Characters; with the number of the process they stay within the first block of the file."""
LONGEST_LINE = 1 << 24
"""Bytes of an event, in which devices may be named one by one."""


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
        line = (json.dumps(plain(stamped), allow_nan=False) + "\n").encode()
        try:
            if not self._mended:
                _take_off_half_a_line(self._path)
                self._mended = True
            with open(self._path, "ab", buffering=0, opener=only_owner) as file:
                _append(file, line)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}", hint="free space, or choose another --out") from error


def _append(file: io.FileIO, line: bytes) -> None:
    """Write all of a line, or nothing: what was written before the disk refused the rest is taken off again."""
    before, written = file.tell(), 0
    try:
        while written < len(line):
            written += file.write(line[written:]) or 0
    except OSError:
        with suppress(OSError):  # a device cannot be cut
            os.ftruncate(file.fileno(), before)
        raise


def _take_off_half_a_line(path: Path) -> None:
    """Of a process that was killed while it wrote: its event was told to nobody. A whole line gets its end."""
    try:
        with open(path, "rb+", buffering=0, opener=only_owner) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - LONGEST_LINE, 0))
            last = file.read(min(size, LONGEST_LINE)).rpartition(b"\n")[2]
            if last and _is_json(last):
                file.write(b"\n")
            elif last:
                file.truncate(size - len(last))
    except FileNotFoundError:
        return


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


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
                    f"{folder}: the process {file.readline().strip() or '?'} works on this run folder",
                    hint="wait for its end, or stop it; two coordinators of one folder would undo each other's work",
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            with _last_words(file):
                yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="choose a folder you may write to") from error


@contextmanager
def _last_words(file: TextIO) -> Iterator[None]:
    """Leave in the file why the block ended: on a full disk it has room where events.jsonl has none."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            file.write(shown(f"{type(error).__name__}: {error}", MOST_LAST_WORDS) + "\n")
            file.flush()
        raise


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
