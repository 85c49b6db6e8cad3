"""Private selection: a random number of runs with settings drawn at random, of which the best alone is released.

Papernot and Steinke 2022; `fedinfer.privacy.selection_epsilon` has the theorem. Everything else that ran is removed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.config import Scenario, override, to_flat
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Clock
from fedinfer.privacy import Event, at_most, relation_of, repetitions_of, selection_epsilon
from fedinfer.simulation import planned_events
from fedinfer.sweeps import folder as cells_folder
from fedinfer.sweeps.content import content_key
from fedinfer.sweeps.grid import SEED, Cell, cells, check_axes, columns, scenario_of
from fedinfer.sweeps.rows import SweepRows, prepared_for_selection
from fedinfer.sweeps.run import SweepSettings, Tick, carry_out
from fedinfer.system import simulation_rng
from fedinfer.types import Json, Unit

SELECTED, RESULT = "selected", "selection.json"
MOST_SEED = 2**62
NOT_PRIVATE = ("pooled", "seconds")
"""Keys of run.json that follow from rows without noise, or tell of the machine."""


@dataclass(frozen=True, slots=True)
class SelectionCell:
    """A setting that can run.

    Args:
        cell: its values.
        scenario: with the seed of the sweep.
        events: what one run of it may release.
    """

    cell: Cell
    scenario: Scenario
    events: tuple[Event, ...]


def select_privately(
    base: Scenario, settings: SweepSettings, expected: float, folder: Path, clock: Clock, tick: Callable[[Tick], None]
) -> Json:
    """Draw runs, carry them out, keep the best, and say what its release costs.

    Args:
        base: scenario that the axes vary; its seed draws runs and the split of the rows.
        settings: its axes are used; its seeds, rows and wish are not.
        expected: mean number of runs, > 1.
        folder: absent, empty, or of an interrupted selection.
        clock: for the pace.
        tick: is told how far it is. The number of runs is for whoever holds the rows: it is not covered.

    Returns:
        selection.json: setting, score on public rows, epsilon and delta of the release; the run is in `selected`.

    Raises:
        ConfigError: no setting can run, one is not private, they differ in unit or delta, or no public rows.
        StoreError: the folder cannot be written, or a run failed through the machine; the same call goes on.
    """
    check_axes(settings.axes)
    if (folder / cells_folder.QUESTION).exists():
        raise ConfigError(
            f"{folder} holds a sweep, whose runs a private selection would remove", hint="choose another --out"
        )
    if settings.rows is not SweepRows.OWN:
        raise ConfigError("private selection is for private rows", hint="leave --rows out")
    candidates, refused = _candidates(base, settings)
    law, split = repetitions_of(expected), base.scenario.seed
    privacy = candidates[0].scenario.privacy
    events = [each.events for each in candidates]
    epsilon = selection_epsilon(events, law, privacy.delta, relation_of(privacy.unit))
    rng = simulation_rng(split, "selection", "runs")
    drawn = [(int(rng.integers(len(candidates))), int(rng.integers(MOST_SEED))) for _ in range(law.draw(rng))]
    with cells_folder.opened(folder):
        jobs = {key: job for place, seed in drawn for key, job in [_job(candidates[place], seed, split, folder)]}
        missing = {key: job for key, job in jobs.items() if cells_folder.found(folder, key) is None}
        failures = carry_out(missing, settings, folder, clock, tick, len(jobs))
        if failures:  # leaving a run out would change the law of their number
            reason = next(iter(failures.values())).reason
            raise StoreError(f"{len(failures)} runs failed: {reason}", hint="the same command goes on with them")
        best, score = _best(folder, list(jobs))
        chosen = candidates[drawn[list(jobs).index(best)][0]]
        _release(folder, best)
        result = {
            "schema": 1,
            "scenario": base.scenario.name,
            "setting": columns(chosen.cell.settings),
            "score": score,
            "unit": str(privacy.unit),
            "epsilon": epsilon,
            "delta": privacy.delta,
            "one_run_epsilon": max(each.scenario.privacy.epsilon for each in candidates),
            "expected_runs": law.mean,
            "law": {"eta": law.eta, "gamma": law.gamma},
            "candidates": len(candidates),
            "refused": refused,
            "said": _said(epsilon, privacy.delta, str(privacy.unit), len(candidates), law.mean),
        }
        cells_folder.write(folder / RESULT, result)
    return result


def _candidates(base: Scenario, settings: SweepSettings) -> tuple[list[SelectionCell], list[Json]]:
    """Settings that have a plan. Plans follow from public facts alone: leaving others out costs nothing."""
    found, refused = [], []
    for cell in cells(settings.axes, (base.scenario.seed,)):
        try:
            scenario = scenario_of(base, cell)
            if scenario.privacy.unit is Unit.NONE:
                raise ConfigError(
                    "private selection among settings without privacy: their results cannot be released",
                    hint="leave inf out of --epsilon, and none out of --unit",
                )
            prepared = prepared_for_selection(scenario, base.scenario.seed)
            found.append(SelectionCell(cell, scenario, planned_events(prepared)))
        except ConfigError as error:
            refused.append({**columns(cell.settings), "reason": str(error)})
    if refused and not found:
        raise ConfigError(f"no setting can run: {refused[0]['reason']}", hint="fedinfer sweep shows all reasons")
    for name in ("unit", "delta"):
        values = {str(getattr(each.scenario.privacy, name)) for each in found}
        if len(values) > 1:
            raise ConfigError(
                f"private selection among different values of privacy.{name}: {', '.join(sorted(values))}",
                hint="one epsilon must cover whichever is chosen: give one",
            )
    return found, refused


def _job(candidate: SelectionCell, seed: int, split: int, folder: Path) -> tuple[str, Json]:
    scenario = override(candidate.scenario, {SEED: seed})
    key = content_key(scenario, f"selection, split {split}")
    part = cells_folder.part_of(folder, key, os.getpid())
    return key, {
        "scenario": to_flat(scenario),
        "rows": str(SweepRows.OWN),
        "part": str(part),
        "keep": True,
        "split": split,
    }


def _best(folder: Path, keys: Sequence[str]) -> tuple[str, float | None]:
    """The run with the best score on public rows; one without a score is the worst. The first of equal ones."""

    def rank(key: str) -> float:
        record = cells_folder.record_of(folder, key) or {}
        task = record.get("task", {})
        score = record.get("metrics", {}).get(task.get("metric"))
        if score is None:
            return -math.inf
        return float(score) if task["higher_is_better"] else -float(score)

    best = max(keys, key=rank)
    score = rank(best)
    return best, abs(score) if math.isfinite(score) else None


def _release(folder: Path, key: str) -> None:
    """Keep the best run, without what is not covered, and remove all others."""
    target = folder / SELECTED
    shutil.rmtree(target, ignore_errors=True)
    source = folder / cells_folder.CELLS / key
    run = source / "run.json"
    if run.exists():
        record = json.loads(run.read_text(encoding="utf-8"))
        cells_folder.write(run, {name: value for name, value in record.items() if name not in NOT_PRIVATE})
    for name in ("events.jsonl", cells_folder.CELL, "devices"):
        path = source / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    source.rename(target)
    for path in (folder / cells_folder.CELLS).iterdir():
        shutil.rmtree(path, ignore_errors=True)


def _said(epsilon: float, delta: float, unit: str, candidates: int, mean: float) -> str:
    return (
        f"Private selection among {candidates} settings with {mean:.3g} expected runs: the chosen setting, its model "
        f"and its score on public rows together cost epsilon {at_most(epsilon)} at delta {at_most(delta, 6)} "
        f"per {unit}, when "
        "nothing else of it is shown: neither other runs nor how many there were. Noise follows from the seed, as in "
        "every simulation: keep the seed secret."
    )
