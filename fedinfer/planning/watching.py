"""Windows and their budget: a change of a stated size is seen, or nothing is watched and one sentence says why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fedinfer.config import Scenario, override
from fedinfer.coordinator import least_seen, make_plan
from fedinfer.drift import POWER
from fedinfer.errors import ConfigError
from fedinfer.planning.facts import Facts

FEW = (2, 5)
"""Windows that make the reference, and all windows: three are compared."""
MANY = (1, 3)
"""The same for more than `MANY_DEVICES`, whose sums take about a minute each in a simulation."""
MANY_DEVICES = 200
SHARES = (0.1, 0.2, 0.3, 0.4)
"""Parts of the budget that are tried. Costs of reports and rounds add up nearly as squares: 0.3 costs training 5 %."""
WANTED, WORTHWHILE = 0.1, 0.3
"""Change of the answers that shall be seen; a watch that sees only more than the second is not worth its budget."""
LEFT_OUT = 0.1
"""Part of the devices, or one of them, that may have fewer rows than a window: what they report counts for nothing."""
LEAST_WATCHED = 3
"""Devices that must have rows for every window."""
MOST_ROWS = 1000
"""Rows of a window: more take time and are not needed to see a change of `WANTED`."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What is watched.

    Args:
        reference: windows that make the reference.
        windows: all of them.
        rows: of a window on one device; 0: nothing is watched.
        epsilon: part of the budget for all windows.
        least_seen: change of the answers that is seen with probability 0.9.
        why: one sentence for the reader.
    """

    reference: int
    windows: int
    rows: int
    epsilon: float
    least_seen: float
    why: str

    def values(self) -> dict[str, object]:
        """Keys of the scenario."""
        if not self.rows:
            return {"drift.enabled": False}
        return {
            "drift.windows": self.windows,
            "drift.window": self.rows,
            "drift.reference_windows": self.reference,
            "drift.epsilon": self.epsilon,
            "drift.after_windows": 0,
        }


def plan_watching(scenario: Scenario, facts: Facts, dimension: int) -> Watching:
    """The cheapest watch that sees a change of `WANTED` of the answers, else the best one that is worthwhile.

    Args:
        scenario: with its budget.
        facts: of the fleet.
        dimension: number of tuned parameters.
    """
    reference, windows = MANY if facts.devices > MANY_DEVICES else FEW
    rows, silent = _window_rows(scenario, facts, windows)
    if not rows:
        return Watching(0, 0, 0, 0.0, math.inf, "many devices have too few held-out rows for windows of inference")
    shares = [float(f"{share * scenario.privacy.epsilon:.2g}") for share in SHARES]
    plans = [Watching(reference, windows, rows, epsilon, math.inf, "") for epsilon in shares]
    tried = [_tried(scenario, facts, dimension, plan, silent) for plan in plans]
    good = [watching for watching in tried if watching.least_seen <= WANTED]
    best = good[0] if good else min(tried, key=lambda watching: watching.least_seen)
    if best.least_seen <= WORTHWHILE:
        return best
    known = f"a change of {best.least_seen:.0%}" if math.isfinite(best.least_seen) else "no change"
    return Watching(
        0, 0, 0, 0.0, math.inf,
        f"with {facts.devices} devices of {rows} rows in a window, {known} of the answers could be seen through the "
        f"noise of {SHARES[-1]:.0%} of the budget",
    )  # fmt: skip


def _window_rows(scenario: Scenario, facts: Facts, windows: int) -> tuple[int, int]:
    """Rows of a window, and devices that have fewer: as many units as can be counted on, with few devices left out."""
    whole = [min(held // (windows if facts.in_order else 1), MOST_ROWS) for held in facts.held_out]
    most_left = min(max(1, int(LEFT_OUT * len(whole))), max(len(whole) - LEAST_WATCHED, 0))
    unit = scenario.privacy.unit
    counted = [unit.counted(rows) * (len(whole) - place) if rows else 0 for place, rows in enumerate(whole)]
    place = int(np.argmax(counted[: most_left + 1]))
    return whole[place], place


def _tried(scenario: Scenario, facts: Facts, dimension: int, watching: Watching, silent: int) -> Watching:
    with_windows = override(scenario, {**watching.values(), "drift.enabled": True})
    try:
        plan = make_plan(with_windows, facts.population(dimension), "local", ())
    except ConfigError:
        return watching
    least = least_seen(with_windows, facts.devices, plan, silent)
    why = f"a change of {least:.0%} of the answers that lasts is seen with probability {POWER:g}"
    if silent:
        why += f"; {silent} device{'s have' if silent > 1 else ' has'} fewer held-out rows than a window"
    return replace(watching, least_seen=least, why=why)
