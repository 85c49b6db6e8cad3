"""Rows of equal settings together: mean and confidence interval over seeds. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fedinfer.types import Json

CONFIDENCE = 0.95
MEANS = (
    "file_utility", "group_gap", "epsilon_spent", "epsilon_planned", "noise_multiplier", "bytes_up_per_device",
    "bytes_down_per_device", "seconds", "cpu_seconds", "energy_joules", "constant_utility", "pooled_utility",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds.

    Args:
        mean: of the values.
        low, high: ends of the 95 % confidence interval of the mean; both the mean where there is one value.
        count: values, >= 1.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def error(self) -> float:
        """Half of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class SweepSetting:
    """One combination of values over its seeds.

    Args:
        settings: columns of the setting.
        runs: seeds with a figure.
        asked: seeds that were asked for.
        utility, worst_group: over the seeds; None where no run has it.
        means: further figures, averaged; None where no run has one.
        reasons: why seeds have no figure, each reason once.
    """

    settings: Json
    runs: int
    asked: int
    utility: Interval | None
    worst_group: Interval | None
    means: Json
    reasons: tuple[str, ...]

    def to_json(self) -> Json:
        """For the page and `--json`."""
        return {
            **self.settings,
            "runs": self.runs,
            "asked": self.asked,
            **_ends("utility", self.utility),
            **_ends("worst_group", self.worst_group),
            **self.means,
            "reasons": list(self.reasons),
        }


def interval_of(values: Sequence[float]) -> Interval:
    """Mean with Student's t interval, at 95 %: right for few seeds when their figures are about normal.

    Args:
        values: at least one, finite.
    """
    found = np.asarray(values, dtype=np.float64)
    mean, count = float(found.mean()), len(found)
    if count < 2:
        return Interval(mean, mean, mean, count)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * float(found.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def settings_of(rows: Sequence[Json], names: Sequence[str]) -> tuple[SweepSetting, ...]:
    """Group rows by their settings, in the order of their first row.

    Args:
        rows: of the table of results.
        names: columns of the settings, without the seed.
    """
    grouped: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[name] for name in names), []).append(row)
    return tuple(_setting(dict(zip(names, values, strict=True)), group) for values, group in grouped.items())


def _setting(settings: Json, rows: Sequence[Json]) -> SweepSetting:
    useful = [row for row in rows if _finite(row["utility"]) and row["status"] == "completed"]
    reasons = tuple(dict.fromkeys(str(row["reason"]) for row in rows if row["reason"]))
    return SweepSetting(
        settings,
        len(useful),
        len(rows),
        _over(useful, "utility"),
        _over(useful, "worst_group"),
        {name: _mean(useful, name) for name in MEANS},
        reasons,
    )


def _over(rows: Sequence[Json], name: str) -> Interval | None:
    values = [row[name] for row in rows if _finite(row[name])]
    return interval_of(values) if values else None


def _mean(rows: Sequence[Json], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return float(np.mean(values)) if values else None


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _ends(name: str, interval: Interval | None) -> Json:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
