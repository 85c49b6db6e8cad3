"""What is counted over a virtual run: outcomes, bytes, energy, and who took part how often."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedinfer.fleet.jobs import FATES, Fate
from fedinfer.fleet.selection import Registry
from fedinfer.types import Json

TOO_LATE, TOO_STALE = "too late", "too stale"
USED = "used"
QUARTERS = ("slowest quarter", "second quarter", "third quarter", "fastest quarter")
HISTOGRAM_END = 10
"""Participations from here on share the last bar."""


@dataclass(slots=True)
class Tally:
    """Totals of a run so far.

    Args:
        asked: jobs begun.
        outcomes: jobs by how they ended.
        down_bytes: sent to devices.
        up_bytes: received from devices.
        watt_hours: that devices took.
        wasted_watt_hours: of jobs whose answer is in no sum.
    """

    asked: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    down_bytes: int = 0
    up_bytes: int = 0
    watt_hours: float = 0.0
    wasted_watt_hours: float = 0.0

    def count(self, outcome: str, jobs: int, watt_hours: float) -> None:
        """Note how some jobs ended.

        Args:
            outcome: in words.
            jobs: how many.
            watt_hours: that they took together.
        """
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + jobs
        self.watt_hours += watt_hours
        self.wasted_watt_hours += 0.0 if outcome == USED else watt_hours

    def count_fates(self, fate: npt.NDArray[np.int8], watt_hours: npt.NDArray[np.float64]) -> None:
        """Note jobs that failed by themselves.

        Args:
            fate: `Fate` of each, (k,).
            watt_hours: that each took, (k,).
        """
        for value, words in FATES.items():
            here = fate == value
            if value is not Fate.ANSWERED and here.any():
                self.count(words, int(here.sum()), float(watt_hours[here].sum()))

    def to_json(self) -> Json:
        """All totals."""
        return {
            "asked": self.asked,
            "outcomes": dict(self.outcomes),
            "down_bytes": self.down_bytes,
            "up_bytes": self.up_bytes,
            "watt_hours": self.watt_hours,
            "wasted_watt_hours": self.wasted_watt_hours,
        }


def fairness(registry: Registry) -> Json:
    """How evenly sums drew on the fleet.

    Args:
        registry: knows who took part how often, and how fast devices are.

    Returns:
        Share of devices in at least one sum, Gini coefficient of participations, the most, a histogram, and the mean
        of each quarter of devices by speed.
    """
    counts = registry.participations
    bars = np.bincount(np.minimum(counts, HISTOGRAM_END), minlength=HISTOGRAM_END + 1)
    order = np.argsort(registry.capacities.rows_per_second, kind="stable")
    means = [float(counts[part].mean()) if len(part) else 0.0 for part in np.array_split(order, len(QUARTERS))]
    return {
        "reached": float((counts > 0).mean()),
        "gini": gini(counts),
        "most": int(counts.max()),
        "histogram": bars.tolist(),
        "mean_by_speed": dict(zip(QUARTERS, means, strict=True)),
    }


def gini(counts: npt.NDArray[np.uint16]) -> float:
    """Gini coefficient: half the mean difference between two devices, relative to the mean.

    From a histogram: sum over values of F (1 - F) dx over the mean, so a million devices need no sorting.

    Args:
        counts: (devices,).

    Returns:
        0: all equal; near 1: few devices did everything. 0 where nobody did anything.
    """
    bars = np.bincount(counts)
    total = float((bars * np.arange(len(bars))).sum())
    if not total:
        return 0.0
    below = np.cumsum(bars)[:-1] / len(counts)
    return float((below * (1 - below)).sum() / (total / len(counts)))
