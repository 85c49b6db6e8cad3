"""Finished runs side by side: their figures, and what makes them not comparable. Pure but for reading run.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.errors import ConfigError
from fedinfer.sweeps.figures import run_figures
from fedinfer.types import Json

SETTINGS = (
    "run", "scenario", "seed", "model", "parameters", "population", "epsilon", "unit", "trust", "clipping_norm",
    "robust", "mode",
)  # fmt: skip
"""Columns that say what ran; those of `run_figures` follow."""
SAME = {
    "scenario": "they are different tasks",
    "metric": "they are judged by different figures",
    "unit": "their epsilons protect different things",
    "delta": "their epsilons hold at different deltas",
    "relation": "their epsilons are about different neighbours",
    "population": "they have different devices",
}
"""What two runs must share, and what it means when they do not."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Runs side by side.

    Args:
        rows: one per run: `SETTINGS`, then the figures.
        notes: sentences on what a reader must not conclude.
    """

    rows: tuple[Json, ...]
    notes: tuple[str, ...]


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """Read runs and put them side by side.

    Args:
        folders: of runs, at least one.

    Raises:
        ConfigError: one holds no run.json of this schema.
    """
    records = [read_run(folder) for folder in folders]
    rows = tuple(row_of_run(str(folder), record) for folder, record in zip(folders, records, strict=True))
    return RunComparison(rows, (*_different(rows), *_chance(rows, records)))


def read_run(folder: Path) -> Json:
    """run.json of a finished run.

    Args:
        folder: of the run.

    Raises:
        ConfigError: no run.json of this schema.
    """
    try:
        record: Json = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        row_of_run("", record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this is no record of a run"
        raise ConfigError(f"{folder / 'run.json'}: {why}", hint="give folders of finished runs") from error
    return record


def row_of_run(name: str, record: Json) -> Json:
    """`SETTINGS` and figures of a run.

    Args:
        name: for the column `run`.
        record: run.json, schema 1.
    """
    privacy, sums = record["privacy"], record["secure_aggregation"]
    settings = (
        name, record["scenario"], record["seed"], record["model"]["kind"], record["model"]["parameters"],
        record["population"], privacy["budget"] if privacy["private"] else math.inf, privacy["unit"], privacy["trust"],
        privacy["clipping_norm"], sums["robust"], sums["mode"],
    )  # fmt: skip
    return dict(zip(SETTINGS, settings, strict=True)) | {"status": record["status"]} | run_figures(record)


def _different(rows: Sequence[Json]) -> list[str]:
    notes = []
    for name, meaning in SAME.items():
        values = list(dict.fromkeys(str(row[name]) for row in rows))
        if len(values) > 1:
            notes.append(f"{name} differs ({', '.join(values)}): {meaning}.")
    return notes


def _chance(rows: Sequence[Json], records: Sequence[Json]) -> list[str]:
    """Whether the best and the worst file differ by more than the held-out rows can show."""
    notes = []
    intervals = {
        row["run"]: found
        for row, record in zip(rows, records, strict=True)
        if (found := (record.get("judgement") or {}).get("interval"))
    }
    if len(intervals) > 1 and max(low for low, _ in intervals.values()) <= min(high for _, high in intervals.values()):
        notes.append("All 95 % intervals of the files' figures overlap: the differences may be chance.")
    if len({row["seed"] for row in rows}) == 1 < len(rows):
        notes.append("All runs have one seed: `fedinfer sweep --seeds 5` shows how much a seed changes.")
    return notes
