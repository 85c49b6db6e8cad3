"""A simulation that is killed goes back to the end of its last step: devices, ledgers, repository, coordinator.

A real device remembers what it spent and answered; nothing turns that back. A simulated one is part of the run, so the
whole run folder is kept after every step, and who goes on with the run puts it back first. The step that was under way
then happens once, with the draws of the run's seed: the result is that of a run that was never stopped, bit for bit.

Layout of `state/`: `begun.json` (scenario, build and table of the run), `keys/` (of the update channel, thrown away
with the folder), `state.npz` (the coordinator, and which of the following belong to it), `files-N/` (hard links: models
and metadata are replaced, never changed), `databases-N/` (copies).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import assert_never

from fedinfer.artifact import Keys, generate_keys, load_keys, save_keys
from fedinfer.config import Scenario, from_flat, to_flat
from fedinfer.coordinator import STATE_FOLDER, RunStep, StateFile, read_state
from fedinfer.data import Federation
from fedinfer.errors import ConfigError, StoreError
from fedinfer.flower import build_id
from fedinfer.private_files import only_owner, private_folder
from fedinfer.simulation.folder import EVENTS, LOCK, count_lines
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training import Checkpoint
from fedinfer.types import Json

BEGUN, KEYS, FILES, DATABASES = "begun.json", "keys", "files", "databases"
NOT_OF_THE_WORLD = frozenset({STATE_FOLDER, EVENTS, LOCK, "run.json", "report.html"})
"""What people read stays as it is; everything else is put back."""
DATABASE = ".sqlite"
FLEET = "fleet"
"""Engine of a virtual fleet: where it makes its sums changes nothing."""


class SimulationKeeper:
    """Keeper of a simulation.

    Args:
        folder: of the run.
        entropy: the coordinator's stream, whose place is part of the state.
    """

    def __init__(self, folder: Path, entropy: SimulatedEntropy) -> None:
        self._folder, self._entropy = folder, entropy
        self._number, self._files = _newest(folder / STATE_FOLDER)

    def keep(self, done: RunStep | None, state: Checkpoint) -> None:
        """As `Keeper.keep`; the files of devices change in pushes only, and a push is one step here.

        Args:
            done: the step that is over.
            state: of the coordinator.
        """
        match done:
            case RunStep.PUBLISH:
                return
            case None | RunStep.ROLL_OUT | RunStep.REUSE:
                self._write(state, done, installed=True)
            case RunStep.ROUND | RunStep.WINDOW:
                self._write(state, done, installed=False)
            case _:
                assert_never(done)

    def _write(self, state: Checkpoint, done: RunStep | None, *, installed: bool) -> None:
        """One whole state; the files of devices are taken anew only where they may have changed."""
        number, place = self._number + 1, self._folder / STATE_FOLDER
        if installed:
            self._files = number
            _link_files(self._folder, _empty(place / f"{FILES}-{number}"))
        _copy_databases(self._folder, _empty(place / f"{DATABASES}-{number}"))
        of_world = {
            "world": number,
            "files": self._files,
            "entropy": self._entropy.taken,
            "lines": count_lines(self._folder),
        }
        StateFile(self._folder, of_world).keep(done, state)
        self._number = number
        _forget(place, {f"{FILES}-{self._files}", f"{DATABASES}-{number}"})

    def end(self) -> None:
        """As `Keeper.end`: keys and copies go."""
        shutil.rmtree(self._folder / STATE_FOLDER, ignore_errors=True)


def begin_world(folder: Path, scenario: Scenario, federation: Federation, engine: str) -> None:
    """Note what is simulated, before anything else is written.

    Args:
        folder: of the run.
        scenario: with all its values.
        federation: its rows.
        engine: name of the grid.

    Raises:
        StoreError: the folder cannot be written.
    """
    note_begun(folder, scenario, engine, _digest(federation))


def note_begun(folder: Path, scenario: Scenario, engine: str, table: str) -> None:
    """Write `begun.json`; the file is complete or absent.

    Args:
        folder: of the run.
        scenario: with all its values.
        engine: name of the grid, or of the command that has none.
        table: digest of what the run reads.

    Raises:
        StoreError: the folder cannot be written.
    """
    begun = {
        "scenario": to_flat(scenario),
        "notices": scenario.notices,
        "engine": engine,
        "build": build_id(),
        "table": table,
    }
    try:
        private_folder(folder / STATE_FOLDER)
        temporary = folder / STATE_FOLDER / f"{BEGUN}.part"
        with open(temporary, "w", encoding="utf-8", opener=only_owner) as file:
            file.write(json.dumps(begun))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / STATE_FOLDER / BEGUN)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="check free space and permissions") from error


def was_begun(folder: Path) -> bool:
    """Whether a simulation was begun in a folder and did not come to its end.

    Args:
        folder: of a run.
    """
    return (folder / STATE_FOLDER / BEGUN).exists()


def begun_scenario(folder: Path, *, fleet: bool = False) -> tuple[Scenario, str]:
    """The scenario of a simulation that did not come to its end, and the name of its engine.

    Args:
        folder: of the run.
        fleet: whether a virtual fleet goes on, and not a run.

    Raises:
        ConfigError: there is none to go on with, another program began it, or it is one of the other kind.
    """
    begun = _read_begun(folder)
    if begun["build"] != build_id():
        raise ConfigError(
            f"{folder} was begun by the program {begun['build']}, this one is {build_id()}",
            hint="go on with the same version, or run anew into another folder",
        )
    if (begun["engine"] == FLEET) != fleet:
        command = "fleet" if begun["engine"] == FLEET else "run"
        raise ConfigError(f"{folder} was begun by `fedinfer {command}`", hint=f"fedinfer {command} --resume {folder}")
    return from_flat(begun["scenario"]).noticed(tuple(begun["notices"])), str(begun["engine"])


def check_table(folder: Path, table: str) -> None:
    """Refuse to go on with other rows than a simulation began with.

    Args:
        folder: of the run.
        table: digest of what it would read now.

    Raises:
        ConfigError: it has changed.
    """
    if _read_begun(folder)["table"] != table:
        raise ConfigError(f"{folder} was begun with other rows: its table, or a trace, has changed", hint="run anew")


def put_back(folder: Path, federation: Federation) -> Checkpoint | None:
    """Bring a run folder to the end of the last step that was kept; done again from the start when it is interrupted.

    Args:
        folder: of the run.
        federation: rows of its scenario, as they are now.

    Returns:
        State of the coordinator; None when no step was kept: the run begins anew in an empty folder.

    Raises:
        ConfigError: the rows are others than the run began with, or the state cannot be read.
        StoreError: the disk refuses.
    """
    check_table(folder, _digest(federation))
    kept = read_state(folder)
    try:
        for path in _world(folder):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if kept is not None:
            place = folder / STATE_FOLDER
            _link_tree(place / f"{FILES}-{kept.header['files']}", folder)
            shutil.copytree(place / f"{DATABASES}-{kept.header['world']}", folder, dirs_exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be put back: {error}", hint="check free space and permissions") from error
    return kept


def simulation_keys(folder: Path) -> Keys:
    """Keys of the update channel of a simulation; they are kept as long as the run is not over, then thrown away.

    Args:
        folder: of the run.
    """
    place = folder / STATE_FOLDER / KEYS
    if place.is_dir():
        return load_keys(place)
    keys, part = generate_keys(SystemEntropy()), place.with_name(f"{KEYS}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_keys(keys, part)
    part.replace(place)
    return keys


def _read_begun(folder: Path) -> Json:
    try:
        begun: Json = json.loads((folder / STATE_FOLDER / BEGUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        over = (folder / "run.json").exists() or (folder / "fleet.json").exists()
        raise ConfigError(
            f"{folder}: {'this run is over' if over else 'no simulation was begun here'}, nothing is left to do",
            hint="" if over else "give the folder of `fedinfer run` or `fedinfer fleet`",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / STATE_FOLDER / BEGUN}: {error}") from error
    return begun


def _world(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name not in NOT_OF_THE_WORLD)


def _newest(place: Path) -> tuple[int, int]:
    """Numbers of the databases and of the files that belong to the kept state; 0: there is none."""
    kept = read_state(place.parent)
    return (0, 0) if kept is None else (int(kept.header["world"]), int(kept.header["files"]))


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    private_folder(folder)
    return folder


def _forget(place: Path, wanted: set[str]) -> None:
    for path in place.iterdir():
        if path.name.startswith((f"{FILES}-", f"{DATABASES}-")) and path.name not in wanted:
            shutil.rmtree(path)


def _link_files(folder: Path, target: Path) -> None:
    """Everything but the databases; a file and its copy are one until the file is replaced."""
    for path in _world(folder):
        if path.is_dir():
            _link_tree(path, target / path.name)
        elif not _is_database(path):
            os.link(path, target / path.name)


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source,
        target,
        symlinks=True,
        ignore=lambda parent, names: [name for name in names if _is_database(Path(parent, name))],
        copy_function=os.link,
        dirs_exist_ok=True,
    )


def _is_database(path: Path) -> bool:
    return path.name.removesuffix("-wal").removesuffix("-shm").endswith(DATABASE)


def _copy_databases(folder: Path, target: Path) -> None:
    for top in _world(folder):
        for path in [top] if top.is_file() else top.rglob(f"*{DATABASE}"):
            if path.name.endswith(DATABASE):
                _copy_database(path, target / path.relative_to(folder))


def _copy_database(source: Path, target: Path) -> None:
    """A database with what is in its write-ahead log; `source` may be open, but nobody writes to it now."""
    private_folder(target.parent)
    os.close(only_owner(str(target), os.O_CREAT | os.O_WRONLY))
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        new.execute("PRAGMA journal_mode=OFF")
        old.backup(new)


def _digest(federation: Federation) -> str:
    rows = hashlib.sha256()
    parts = [("", federation.public[0], federation.public[1])]
    parts += [(name, each.train_x, each.train_y) for name, each in sorted(federation.devices.items())]
    parts += [(name, each.test_x, each.test_y) for name, each in sorted(federation.devices.items())]
    for name, x, y in parts:
        for part in (name.encode(), x.tobytes(), y.tobytes()):
            rows.update(part)
    return rows.hexdigest()
