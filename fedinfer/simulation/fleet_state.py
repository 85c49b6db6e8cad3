"""A virtual fleet that goes on after it was killed: `state/` of its folder, as for a run, with one file for everything.

`begun.json` has the scenario, the build and a digest of what is read from files; `state.npz` the state after a sum. It
is written when a second has passed since the last time: a kill costs a second of work, and writing costs little.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedinfer.config import Scenario
from fedinfer.coordinator import STATE_FOLDER, STATE_VERSION, StateFile, read_state
from fedinfer.fleet import PreparedFleet, Workers, prepare_fleet, run_fleet, world_of
from fedinfer.ports import Clock, Listener
from fedinfer.simulation.folder import alone_in, count_lines
from fedinfer.simulation.world import FLEET, begun_scenario, check_table, note_begun
from fedinfer.training import Checkpoint
from fedinfer.types import Json

KEEP_SECONDS = 1.0


class FleetStateFile:
    """Keeper of a virtual fleet.

    Args:
        folder: of the run.
        clock: says how long ago the state was kept.
        every: least seconds between two files.
    """

    def __init__(self, folder: Path, clock: Clock, every: float) -> None:
        self._folder, self._clock, self._every, self._last = folder, clock, every, clock.seconds()

    def keep(self, make: Callable[[], Checkpoint]) -> None:
        """As `FleetKeeper.keep`."""
        if self._clock.seconds() - self._last < self._every:
            return
        header = {"state_version": STATE_VERSION, "lines": count_lines(self._folder)}
        StateFile(self._folder, header).keep(None, make())
        self._last = self._clock.seconds()

    def end(self) -> None:
        """As `FleetKeeper.end`."""
        shutil.rmtree(self._folder / STATE_FOLDER, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class FleetPlace:
    """Where a virtual fleet runs, and who hears of it.

    Args:
        folder: of the run.
        clock: time.
        workers: make the sums; None: this process.
        emit: receives every event.
        finish: writes the record; the state is there until it has.
        every: least seconds between two states that are kept.
    """

    folder: Path
    clock: Clock
    workers: Workers | None
    emit: Listener
    finish: Callable[[Json], None]
    every: float = KEEP_SECONDS


def begin_fleet(prepared: PreparedFleet, place: FleetPlace) -> Json:
    """Run a virtual fleet in a folder of its own, so that another process can go on with it.

    Args:
        prepared: from `prepare_fleet`.
        place: its folder exists and is empty.

    Returns:
        The record.

    Raises:
        ConfigError: another process works on the folder.
        StoreError: the disk refuses.
        TooFewSurvivors: as `run_fleet`.
    """
    with alone_in(place.folder):
        note_begun(place.folder, prepared.scenario, FLEET, world_of(prepared))
        return _run(prepared, place, None)


def begun_fleet(folder: Path) -> Scenario:
    """The scenario of a virtual fleet that did not come to its end.

    Args:
        folder: of the run.

    Raises:
        ConfigError: there is none to go on with, or another program began it.
    """
    return begun_scenario(folder, fleet=True)[0]


def resume_fleet(scenario: Scenario, place: FleetPlace) -> Json:
    """Go on with a virtual fleet to the end that it would have had without the interruption, bit for bit.

    Args:
        scenario: from `begun_fleet`.
        place: its folder holds the run; sums may be made elsewhere than before.

    Returns:
        The record.

    Raises:
        ConfigError: another process works on the folder, or what is read from files has changed.
        StoreError: the disk refuses.
        TooFewSurvivors: as `run_fleet`.
    """
    with alone_in(place.folder):
        prepared = prepare_fleet(scenario)
        check_table(place.folder, world_of(prepared))
        return _run(prepared, place, read_state(place.folder))


def _run(prepared: PreparedFleet, place: FleetPlace, kept: Checkpoint | None) -> Json:
    keeper = FleetStateFile(place.folder, place.clock, place.every)
    if kept is not None:  # what the log says after these lines has not happened
        place.emit("resumed", {"lines": int(kept.header["lines"])})
    record = run_fleet(prepared, place.workers, place.emit, keeper, kept)
    place.finish(record)
    keeper.end()
    return record
