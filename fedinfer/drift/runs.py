"""Many simulated runs of a watch at once: the same functions as the monitor's, with runs as a leading dimension.

A thousand runs of a hundred windows take seconds, so a promise about false alarms, or a power, can be tried before
anybody spends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import Floats, width
from fedinfer.drift.labelled import says_something
from fedinfer.drift.monitor import MonitorPlan, compare, learn, learns, renewed
from fedinfer.drift.state import fresh
from fedinfer.drift.statistics import NoisySum
from fedinfer.errors import BadMessage


@dataclass(frozen=True, slots=True)
class Runs:
    """What many runs of a watch did.

    Args:
        alarms: (runs, windows, channels), True above the alarm level; False while a channel learns.
        ratios: (runs, windows, channels), statistic over alarm level; 0 while a channel learns.
    """

    alarms: npt.NDArray[np.bool_]
    ratios: Floats

    def first_alarm(self) -> npt.NDArray[np.int64]:
        """(runs,): number of the first window with an alarm on any channel, from 0; -1 for none."""
        over: npt.NDArray[np.bool_] = np.asarray(self.alarms.any(axis=2))
        return np.where(over.any(axis=1), over.argmax(axis=1), -1)


def watch_runs(plan: MonitorPlan, totals: Floats, devices: Sequence[int], rows: int, noise_std: float) -> Runs:
    """Watch many runs; the same devices report in every window of a run, or (unit `device`) any.

    A window with too few labels in one of the runs is passed over in all of them.

    Args:
        plan: what is watched.
        totals: (runs, windows, width of the channels), decoded sums, noise included.
        devices: reporters of each window, the same in all runs.
        rows: rows per reporter; only used with unit `example`.
        noise_std: standard deviation of the summed noise per coordinate, >= 0.

    Raises:
        BadMessage: shapes do not fit.
    """
    runs, windows, length = totals.shape
    if length != width(plan.channels) or len(devices) != windows:
        raise BadMessage(
            f"sums of shape {totals.shape} with reporters of {len(devices)} windows, needed are "
            f"{width(plan.channels)} numbers per window"
        )
    alarms = np.zeros((runs, windows, len(plan.channels)), np.bool_)
    ratios = np.zeros(alarms.shape)
    ends = np.cumsum([channel.bins for channel in plan.channels])
    for place, (channel, sums) in enumerate(zip(plan.channels, np.split(totals, ends[:-1], axis=2), strict=True)):
        state = fresh(channel)
        for window in range(windows):
            size = devices[window] * plan.unit.counted(rows)
            observed = NoisySum(sums[:, window], size, noise_std**2)
            state = renewed(plan, channel, state)
            if not says_something(channel, observed):
                continue
            if learns(plan, channel, state):
                state = learn(plan, channel, state, observed, ())
                continue
            state, step = compare(plan, channel, state, observed, 0.0)
            alarms[:, window, place] = step.statistic > step.alarm
            ratios[:, window, place] = step.statistic / step.alarm
    return Runs(alarms, ratios)
