"""The folder of a run: made when the input is known to be good, and events.jsonl, one line per event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedinfer.coordinator import plain
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Clock
from fedinfer.private_files import only_owner, private_folder

EVENTS = "events.jsonl"


class EventLog:
    """Appends events to events.jsonl. Each line is complete or absent.

    Args:
        folder: run folder.
        clock: stamps each line.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path, self._clock = folder / EVENTS, clock

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        """Write one event.

        Raises:
            StoreError: when the disk refuses, for instance because it is full.
        """
        stamped = {"event": name, "time": self._clock.now().isoformat(timespec="milliseconds"), **fields}
        try:
            with open(self._path, "a", encoding="utf-8", opener=only_owner) as file:
                file.write(json.dumps(plain(stamped), allow_nan=False) + "\n")
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}", hint="free space, or choose another --out") from error


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
