"""The state of a run between two steps: to arrays and JSON, and back. What is not in it does not survive the process.

One file holds everything that the coordinator knows (weights, optimizer, clipping norm, correlated noise, numbers,
records, monitor and policy of the watch, what is left to do), so no half of it can be newer than the other. What has
stores of its own is not in it: ledger, rollouts, signed repository.

The file is as secret as the run folder: with correlated noise it holds the noise of the last rounds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from fedinfer.coordinator.agenda import Agenda, RunStep
from fedinfer.coordinator.context import Progress
from fedinfer.coordinator.drift import Watch
from fedinfer.coordinator.participation import ParticipationSchedule, ScheduleState
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.record import AlarmRecord, ModelRecord, RoundRecord, WindowRecord
from fedinfer.drift import ConfidenceCalibration
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.privacy import CorrelatedNoise
from fedinfer.private_files import private_folder
from fedinfer.training import Checkpoint, OptimizerState, load_checkpoint, save_checkpoint
from fedinfer.types import Json
from fedinfer.wire import decode, encode

STATE_FOLDER = "state"
STATE_FILE = "state.npz"
STATE_VERSION = 1

_RECORDS: Mapping[str, TypeAdapter[Any]] = {
    "rounds": TypeAdapter(list[RoundRecord]),
    "models": TypeAdapter(list[ModelRecord]),
    "windows": TypeAdapter(list[WindowRecord]),
    "alarms": TypeAdapter(list[AlarmRecord]),
}
_SERIES = ("latencies_us", "window_metrics")
_OWN = ("weights", "optimizer", "schedule", "calibration")
_MADE_ANEW = ("newest", "active")
"""The one is read from the repository, the other asked for again."""

T = TypeVar("T")


@dataclass(slots=True)
class RunState:
    """What the coordinator remembers from step to step.

    Args:
        agenda: what is left to do.
        progress: what was reached.
        watch: monitor and policy; None in a run without windows.
        population: what was planned for.
        seconds: that earlier processes worked for the run.
    """

    agenda: Agenda
    progress: Progress
    watch: Watch | None
    population: Population
    seconds: float = 0.0


class StateFile:
    """Keeper of a run whose devices live elsewhere: one file, `state/state.npz` in the run folder.

    Args:
        folder: of the run.
        header: further facts that the file holds, by which a later process knows the run again.
    """

    def __init__(self, folder: Path, header: Json) -> None:
        self._path, self._header = folder / STATE_FOLDER / STATE_FILE, header

    def keep(self, done: RunStep | None, state: Checkpoint) -> None:
        """As `Keeper.keep`."""
        private_folder(self._path.parent)
        save_checkpoint(self._path, Checkpoint(state.arrays, state.header | self._header))

    def end(self) -> None:
        """As `Keeper.end`."""
        self._path.unlink(missing_ok=True)


def read_state(folder: Path) -> Checkpoint | None:
    """What a run left that did not come to its end.

    Args:
        folder: of the run.

    Returns:
        None when there is nothing to go on with.

    Raises:
        ConfigError: the file is damaged, or of another version of the program.
    """
    path = folder / STATE_FOLDER / STATE_FILE
    if not path.exists():
        return None
    kept = load_checkpoint(path)
    if kept.header.get("state_version") != STATE_VERSION:
        raise ConfigError(
            f"{path}: state of version {kept.header.get('state_version')!r}, this program goes on with {STATE_VERSION}",
            hint="finish the run with the program that began it",
        )
    return kept


def to_checkpoint(state: RunState) -> Checkpoint:
    """The state as arrays and JSON; equal states give equal bytes.

    Args:
        state: between two steps.
    """
    progress = state.progress
    arrays: dict[str, npt.NDArray[Any]] = {"weights": progress.weights, **progress.optimizer.arrays()}
    arrays |= {name: np.asarray(getattr(progress, name), np.float64) for name in _SERIES}
    if state.watch is not None:
        watch = state.watch
        kept_watch = {"monitor": watch.state, "policy": watch.policy, "worlds": watch.worlds}
        arrays |= {name: _bytes(encode(value)) for name, value in kept_watch.items()}
    if progress.calibration is not None:
        arrays["calibration"] = np.stack([progress.calibration.right, progress.calibration.rows])
    schedule: Json = {}
    if progress.schedule is not None:
        kept = progress.schedule.state
        arrays["schedule_noise"] = kept.noise.recent
        schedule = {
            "order": list(kept.order),
            "taken": {k: list(v) for k, v in kept.taken.items()},
            "round": kept.noise.round,
        }
    facts = {
        "agenda": asdict(state.agenda),
        # The schema comes with the scenario, which a later process must bring again.
        "population": asdict(replace(state.population, schema=None)),
        "optimizer": str(progress.optimizer.kind),
        "schedule": schedule,
        "seconds": state.seconds,
        "plain": {name: getattr(progress, name) for name in _plain_fields()},
        "records": {name: kind.dump_python(getattr(progress, name), mode="json") for name, kind in _RECORDS.items()},
    }
    # Infinite and unknown figures are in the records, and JSON proper has neither: so it is a text in the header.
    return Checkpoint(arrays, {"state_version": STATE_VERSION, "facts": json.dumps(facts)})


def from_checkpoint(kept: Checkpoint, watch: Watch | None, schedule: ParticipationSchedule | None) -> RunState:
    """Inverse of `to_checkpoint`; the newest file is not in it.

    Args:
        kept: as `to_checkpoint` made it.
        watch: as before the first window; moved to where it was. None in a run without windows.
        schedule: as before the first round; moved to where it was. None with independent noise.

    Raises:
        ConfigError: it is of another plan, or malformed.
    """
    try:
        facts, arrays = json.loads(kept.header["facts"]), kept.arrays
        if watch is not None:
            watch.state = _decoded(watch.state, arrays["monitor"])
            watch.policy = _decoded(watch.policy, arrays["policy"])
            watch.worlds = _decoded(watch.worlds, arrays["worlds"])
        if schedule is not None:
            schedule.go_on(_schedule_state(facts["schedule"], arrays["schedule_noise"]))
        progress = Progress(
            weights=arrays["weights"],
            optimizer=OptimizerState(facts["optimizer"], arrays["optimizer_first"], arrays["optimizer_second"]),
            schedule=schedule,
            calibration=ConfidenceCalibration(*arrays["calibration"]) if "calibration" in arrays else None,
            **{name: arrays[name].tolist() for name in _SERIES},
            **{name: kind.validate_python(facts["records"][name]) for name, kind in _RECORDS.items()},
            **facts["plain"],
        )
        population = Population(**facts["population"])
        return RunState(Agenda(**facts["agenda"]), progress, watch, population, float(facts["seconds"]))
    except (KeyError, TypeError, ValueError, ValidationError, BadMessage) as error:
        raise ConfigError(
            f"the kept state does not fit this run: {type(error).__name__}: {error}",
            hint="go on with the same scenario and program, or begin a new run",
        ) from error


def planned_population(kept: Checkpoint) -> Population:
    """What the run was planned for, which must be known before its plan is made again.

    Args:
        kept: as `to_checkpoint` made it.

    Raises:
        ConfigError: it is malformed.
    """
    try:
        return Population(**json.loads(kept.header["facts"])["population"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the kept state names no population: {error}") from error


def _plain_fields() -> tuple[str, ...]:
    """Fields of `Progress` that JSON holds as they are."""
    special = {*_RECORDS, *_SERIES, *_OWN, *_MADE_ANEW}
    return tuple(field.name for field in dataclasses.fields(Progress) if field.name not in special)


def _schedule_state(facts: Json, recent: npt.NDArray[Any]) -> ScheduleState:
    taken = {device: tuple(rounds) for device, rounds in facts["taken"].items()}
    return ScheduleState(tuple(facts["order"]), taken, CorrelatedNoise(int(facts["round"]), recent))


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _decoded(like: T, array: npt.NDArray[Any]) -> T:
    return decode(type(like), array.tobytes())
