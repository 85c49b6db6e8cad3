"""From run.json to one row of a table: utility, fairness, budget, bytes, time. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedinfer.sweeps.folder import Outcome
from fedinfer.types import Json

FEWEST = 20
"""Rows of a device or group below which it is not compared: its figure is mostly chance."""
SCORES = ("accuracy", "balanced_accuracy", "auc", "average_precision", "f1", "log_loss", "ece", "rmse", "mae", "r2")
FIGURES = (
    "status", "reason", "metric", "utility", "file_utility", "constant_utility", "pooled_utility", "worst_group",
    "worst_group_name", "group_gap", "groups", "epsilon_spent", "epsilon_planned", "delta", "noise_multiplier",
    "accountant", "relation", "sampling", "rounds", "aborted_rounds", "bytes_up_per_device", "bytes_down_per_device",
    "seconds", "cpu_seconds", "energy_joules", "versions", "alarms", *SCORES, "key",
)  # fmt: skip
"""Columns after those of the settings; docs/how-to/sweep.md says what each is."""


def row_of(outcome: Outcome, run: Json | None, key: str, core_watts: float) -> Json:
    """The figures of a cell.

    Args:
        outcome: how it ended.
        run: run.json; None where nothing ran.
        key: of the cell's folder.
        core_watts: power of one busy core, W.

    Returns:
        All `FIGURES`; None where there is none.
    """
    row: Json = dict.fromkeys(FIGURES)
    row |= {"status": str(outcome.status), "reason": _reason(outcome), "key": key}
    if run is None:
        return row
    return row | run_figures(run) | {
        "cpu_seconds": outcome.cpu_seconds,
        "energy_joules": outcome.cpu_seconds * core_watts,
    }  # fmt: skip


def run_figures(run: Json) -> Json:
    """The figures that run.json has, under their names in `FIGURES`.

    Args:
        run: run.json, schema 1.
    """
    privacy, judgement, metrics = run["privacy"], run.get("judgement") or {}, run.get("metrics") or {}
    task, rounds = run.get("task", {}), run["rounds"]
    metric = task.get("metric", "accuracy")
    return {
        "metric": metric,
        "utility": metrics.get(metric),
        "file_utility": judgement.get("value"),
        "constant_utility": (judgement.get("baseline") or {}).get("value"),
        "pooled_utility": (run.get("pooled") or {}).get("value"),
        **fairness_of(judgement, task.get("higher_is_better", True)),
        "epsilon_spent": _number(privacy["epsilon"]),
        "epsilon_planned": _number(privacy["planned_epsilon"]) if privacy["private"] else math.inf,
        **{name: privacy[name] for name in ("delta", "noise_multiplier", "accountant", "relation", "sampling")},
        "rounds": len(rounds),
        "aborted_rounds": sum(row["status"] == "aborted" for row in rounds),
        "bytes_up_per_device": sum(row["bytes_up_per_device"] for row in rounds),
        "bytes_down_per_device": sum(row["bytes_down_per_device"] for row in rounds),
        "seconds": run["seconds"],
        "versions": len(run["models"]),
        "alarms": len(run["drift"]["alarms"]),
        **{name: metrics.get(name) for name in SCORES},
    }


def fairness_of(judgement: Mapping[str, Any], higher_is_better: bool) -> Json:
    """The worst group and the gap between best and worst: of the first attribute in `[report] groups`, else of devices.

    Args:
        judgement: of run.json; may be empty.
        higher_is_better: of the task's metric.

    Returns:
        `worst_group` and `group_gap` (the gap is >= 0) in the metric's unit, `worst_group_name`, and in `groups` what
        was compared; all None with fewer than two groups of `FEWEST` rows that have the figure.
    """
    attributes = judgement.get("groups") or []
    what = attributes[0]["attribute"] if attributes else "devices"
    parts = attributes[0]["groups"] if attributes else judgement.get("devices") or []
    large = [part for part in parts if part["rows"] >= FEWEST and part["value"] is not None]
    names = ("worst_group", "worst_group_name", "group_gap", "groups")
    if len(large) < 2:
        return dict.fromkeys(names)
    ordered: Sequence[Mapping[str, Any]] = sorted(large, key=lambda part: part["value"], reverse=not higher_is_better)
    worst, best = ordered[0], ordered[-1]
    return dict(zip(names, (worst["value"], worst["name"], abs(best["value"] - worst["value"]), what), strict=True))


def _reason(outcome: Outcome) -> str:
    return f"{outcome.reason} ({outcome.hint})" if outcome.hint else outcome.reason


def _number(value: Any) -> float | None:
    return None if value is None else float(value)  # run.json writes infinity as a text
