"""A sweep from its question to its rows: what is there is read, what is missing runs, what cannot run says why."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedinfer.config import Scenario, to_flat
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Clock
from fedinfer.sweeps import folder as cells_folder
from fedinfer.sweeps.advice import Advice, Wish, advise, looking
from fedinfer.sweeps.content import code_version, content_key
from fedinfer.sweeps.export import Exported, exported
from fedinfer.sweeps.figures import FIGURES, row_of
from fedinfer.sweeps.folder import CellStatus, Outcome
from fedinfer.sweeps.grid import EPSILON, SEED, SHORT, TRUST, UNIT, Axis, Cell, cells, check_axes, columns, scenario_of
from fedinfer.sweeps.grid import settings_of as privacy_of
from fedinfer.sweeps.pool import carry_out_all
from fedinfer.sweeps.rows import SweepRows
from fedinfer.sweeps.statistics import SweepSetting, settings_of
from fedinfer.types import Json

CORE_WATTS = 10.0
"""Assumed power of one busy core, W: a server core at full load takes 5 to 15."""


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """What a sweep does.

    Args:
        axes: keys and their values, all different.
        seeds: at least one.
        jobs: processes at a time; 0: one per core.
        rows: whose rows train and judge.
        wish: what the recommendation is for.
        core_watts: power of one busy core, W, for the estimate of energy; > 0.
        keep_models: keep models and stores of devices of every run.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = (1,)
    jobs: int = 0
    rows: SweepRows = SweepRows.OWN
    wish: Wish = field(default_factory=Wish)
    core_watts: float = CORE_WATTS
    keep_models: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """How far a sweep is.

    Args:
        done, total: runs; cells that share a run count once.
        cached: of `done`, those that were there already.
        refused: of `done`, those without a figure.
        seconds_left: by the pace so far; None before the first run ended.
    """

    done: int
    total: int
    cached: int
    refused: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """A finished sweep.

    Args:
        document: what was asked for and found, as in sweep.json.
        rows: one per cell: settings, seed and `FIGURES`.
        settings: over the seeds.
        advice: one per unit.
    """

    document: Json
    rows: tuple[Json, ...]
    settings: tuple[SweepSetting, ...]
    advice: tuple[Advice, ...]

    def to_json(self) -> Json:
        """For the page and `--json`."""
        return {
            **self.document,
            "settings": [each.to_json() for each in self.settings],
            "advice": [each.to_json() for each in self.advice],
        }


def run_sweep(
    base: Scenario, settings: SweepSettings, folder: Path, clock: Clock, tick: Callable[[Tick], None]
) -> Sweep:
    """Run every cell that is not in the folder yet, and read them all.

    Args:
        base: scenario that the axes vary.
        settings: of the sweep.
        folder: absent, empty, or of an earlier sweep, whose equal cells are taken from there.
        clock: for the pace.
        tick: is told how far it is, first with what is there already.

    Returns:
        The sweep; sweep.json is written.

    Raises:
        ConfigError: the axes, or the folder, are wrong.
        StoreError: the folder cannot be written.
    """
    check_axes(settings.axes)
    if not settings.seeds:
        raise ConfigError("no seed", hint="--seeds 5")
    grid = cells(settings.axes, settings.seeds)
    with cells_folder.opened(folder):
        keys, refusals, jobs = _resolve(base, grid, settings, folder)
        failures = carry_out(jobs, settings, folder, clock, tick, len(set(filter(None, keys))))
        rows = tuple(
            _row(base, cell, key, refusal or failures.get(key), settings, folder)
            for cell, key, refusal in zip(grid, keys, refusals, strict=True)
        )
        sweep = _summed(base, settings, rows)
        try:
            cells_folder.write(folder / cells_folder.QUESTION, sweep.to_json())
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}", hint="free space, or choose another --out") from error
    return sweep


def _resolve(
    base: Scenario, grid: Sequence[Cell], settings: SweepSettings, folder: Path
) -> tuple[list[str], list[Outcome | None], dict[str, Json]]:
    """The key of every cell ("" where its values are refused), refusals, and the jobs that are missing, by key."""
    keys: list[str] = []
    refusals: list[Outcome | None] = []
    jobs: dict[str, Json] = {}
    for cell in grid:
        try:
            scenario = scenario_of(base, cell)
        except ConfigError as error:
            keys.append("")
            refusals.append(Outcome(CellStatus.REFUSED, str(error), error.hint))
            continue
        key = content_key(scenario, settings.rows)
        keys.append(key)
        refusals.append(None)
        if key not in jobs and cells_folder.found(folder, key) is None:
            part = cells_folder.part_of(folder, key, os.getpid())
            jobs[key] = {
                "scenario": to_flat(scenario),
                "rows": str(settings.rows),
                "part": str(part),
                "keep": settings.keep_models,
            }
    return keys, refusals, jobs


def carry_out(
    jobs: dict[str, Json],
    settings: SweepSettings,
    folder: Path,
    clock: Clock,
    tick: Callable[[Tick], None],
    total: int,
) -> dict[str, Outcome]:
    """Run the missing cells.

    Args:
        jobs: by key.
        settings: of the sweep.
        folder: of the sweep.
        clock: for the pace.
        tick: is told how far it is.
        total: runs, with those that are there already.

    Returns:
        Cells that left nothing behind.
    """
    failures: dict[str, Outcome] = {}
    names, start = list(jobs), clock.seconds()
    cached, refused = total - len(jobs), 0
    tick(Tick(cached, total, cached, 0, None))

    def done(number: int, answer: Json) -> None:
        nonlocal refused
        finished.append(number)
        refused += answer["status"] != CellStatus.COMPLETED
        _keep_failure(failures, names[number], answer)
        left = (len(jobs) - len(finished)) * (clock.seconds() - start) / len(finished)
        tick(Tick(cached + len(finished), total, cached, refused, left))

    finished: list[int] = []
    if jobs:
        carry_out_all(list(jobs.values()), settings.jobs or _cores(), folder, done)
    return failures


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _row(base: Scenario, cell: Cell, key: str, outcome: Outcome | None, settings: SweepSettings, folder: Path) -> Json:
    outcome = outcome or cells_folder.found(folder, key) or Outcome(CellStatus.FAILED, "its folder is damaged")
    record = cells_folder.record_of(folder, key) if key else None
    shown = columns([*privacy_of(base).items(), *cell.settings])
    return shown | {SHORT[SEED]: cell.seed} | row_of(outcome, record, key, settings.core_watts)


def _summed(base: Scenario, settings: SweepSettings, rows: tuple[Json, ...]) -> Sweep:
    own = [axis.key for axis in settings.axes if axis.key not in SHORT]
    names = [*(SHORT[key] for key in (EPSILON, UNIT, TRUST)), *own]
    found = settings_of(rows, names)
    metric = next((str(row["metric"]) for row in rows if row["metric"]), "")
    higher = metric not in ("rmse", "mae", "log_loss")
    document = {
        "schema": 1,
        "scenario": base.scenario.name,
        "description": base.scenario.description,
        "axes": {axis.key: [_plain(value) for value in axis.values] for axis in settings.axes},
        "seeds": list(settings.seeds),
        "rows": str(settings.rows),
        "code": code_version(),
        "metric": metric,
        "higher_is_better": higher,
        "columns": names,
        "core_watts": settings.core_watts,
        "looking": looking(rows, settings.rows),
        "figures": [*names, SHORT[SEED], *FIGURES],
    }
    return Sweep(document, rows, found, advise(found, settings.wish, higher))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and math.isinf(value) else json.loads(json.dumps(value, default=str))


def runs_of(sweep: Sweep, folder: Path) -> list[Exported]:
    """Every run of a sweep once, for trackers; cells without a run are left out.

    Args:
        sweep: from `run_sweep`.
        folder: of the sweep.
    """
    names = [*sweep.document["columns"], SHORT[SEED]]
    ran = {row["key"]: row for row in reversed(sweep.rows) if row["utility"] is not None}
    return [
        exported(
            folder / cells_folder.CELLS / key,
            f"{sweep.document['scenario']}-{key[:8]}",
            {name: row[name] for name in names},
        )
        for key, row in ran.items()
    ]


def _keep_failure(failures: dict[str, Outcome], name: str, answer: Json) -> None:
    """A cell that failed is tried again next time, so no file remembers it."""
    if answer["status"] == CellStatus.FAILED:
        failures[name] = Outcome(CellStatus.FAILED, str(answer["reason"]))
