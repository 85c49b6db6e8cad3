"""What a watch would see, before anybody spends: power, delay and false alarms of a plan, for stated changes.

The fleet of a forecast is made of devices that are alike and count one row each, the worst that the test allows for:
devices that count more rows, or differ from each other, vary less. Sums are drawn with the exact mean and covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import Bins, Channel, Floats, Source
from fedinfer.drift.flags import LEVEL
from fedinfer.drift.monitor import MonitorPlan
from fedinfer.drift.power import POWER, at_the_end
from fedinfer.drift.runs import Runs, watch_runs
from fedinfer.drift.statistics import NoisySum, chi2_tail, contrasts, degrees_of_freedom, quadratic_form
from fedinfer.system import simulation_rng
from fedinfer.types import Unit

SHIFT = 0.3
"""Standard deviations by which ordered bins shift unless somebody says otherwise."""
PART = 1.0 / 3.0
"""Part of the rows that get another category per standard deviation: a tenth at the usual shift."""
FAULTY = 1.0 / 6.0
"""The same for cells that go missing, or answers that go wrong: a twentieth at the usual shift."""
SHIFTED_DEVICES, RAISED = 0.1, 0.5
"""Devices that change where flags are tried, and how often those raise theirs."""
LATER = (1, 2, 4)
"""Windows after a change for which the chance to have seen it is told, beside the last."""
MOST_RUNS = 400
MOST_FACTOR = 1000.0


@dataclass(frozen=True, slots=True)
class StatedChange:
    """A change that a channel is tried on.

    Args:
        text: in words.
        normal: mean report of one unit before, (bins,).
        change: of the mean report, (bins,).
    """

    text: str
    normal: Floats
    change: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a watch would do about a change of one channel.

    Args:
        channel: its name.
        change: in words.
        seen: (windows after the change, chance of an alarm of this channel by then), rising.
        delay: median windows to the alarm where there is one by the last window; inf where most runs have none.
    """

    channel: str
    change: str
    seen: tuple[tuple[int, float], ...]
    delay: float


def stated_change(channel: Channel, unit: Unit, shift: float) -> StatedChange:
    """The change on which a channel is tried; of labelled rows, where every unit has labels.

    Args:
        channel: of a report.
        unit: of the report.
        shift: standard deviations of an ordered channel, > 0; the others scale with it.
    """
    match channel.source:
        case Source.OUTPUT | Source.INPUT:
            return _of_rows(channel, shift)
        case Source.FLAG:
            raised = SHIFTED_DEVICES * (RAISED - LEVEL) * channel.most * (shift / SHIFT)
            part = SHIFTED_DEVICES * shift / SHIFT
            text = f"{part:.0%} of the devices change and raise their flag in every other window"
            return StatedChange(text, np.array([LEVEL * channel.most]), np.array([min(raised, channel.most)]))
        case Source.ERROR:
            part, half, scale = min(FAULTY * shift, 0.5), channel.bins // 2, channel.scale(unit)
            # Right answers fill the first half of the bins, wrong ones the second, each evenly.
            normal, change = (np.repeat(pair, half) / half * scale for pair in ([0.8, 0.2], [-part, part]))
            return StatedChange(f"{part:.0%} more errors", normal, change)
        case _:
            assert_never(channel.source)


def _of_rows(channel: Channel, shift: float) -> StatedChange:
    even = np.full(channel.bins, 1.0 / channel.bins)
    match channel.kind:
        case Bins.ORDERED:
            law = NormalDist()
            edges = [law.inv_cdf(place / channel.bins) for place in range(1, channel.bins)]
            moved = np.diff([0.0, *(law.cdf(edge - shift) for edge in edges), 1.0])
            return StatedChange(f"a shift by {shift:g} standard deviations", even, moved - even)
        case Bins.CATEGORIES:
            part = min(PART * shift, even[0])
            change = np.full(channel.bins, part / (channel.bins - 1))
            change[0] = -part
            return StatedChange(f"{part:.0%} of the rows get another category", even, change)
        case Bins.SHARES:
            part = min(FAULTY * shift, 1.0)
            change = np.zeros(channel.bins)
            change[0] = min(part, channel.clip_share**0.5)
            return StatedChange(f"{part:.0%} of one column go missing", np.zeros(channel.bins), change)
        case _:
            assert_never(channel.kind)


def chance(plan: MonitorPlan, place: int, stated: StatedChange, size: float, noise_std: float) -> float:
    """Probability that a lasting change from the first watched window on is above the alarm level in the last one.

    Args:
        plan: what is watched.
        place: of the channel in the plan.
        stated: the change.
        size: units in the sum of one window, > 0.
        noise_std: standard deviation of the noise of that sum, per bin.
    """
    channel = plan.channels[place]
    if plan.windows <= channel.warm_up:
        return 0.0
    window = NoisySum(stated.normal * size, size, noise_std**2)
    many = plan.reference_windows
    reference = NoisySum(window.total * many, size * many, window.noise_variance * many)
    covariance, threshold, reach = at_the_end(plan, channel, window, reference)
    direction = reach * (contrasts(channel.bins, channel.kind).T @ stated.change) / channel.scale(plan.unit)
    return noncentral_tail(threshold, degrees_of_freedom(channel), float(quadratic_form(direction, covariance)))


def noncentral_tail(value: float, df: int, noncentrality: float) -> float:
    """The chance that a noncentral chi-square variable exceeds a value: a Poisson mixture of central ones.

    Johnson, Kotz and Balakrishnan 1995, Continuous Univariate Distributions 2, equation 29.2.

    Args:
        value: >= 0.
        df: degrees of freedom, >= 1.
        noncentrality: squared length of the shift, >= 0.

    Returns:
        In [0, 1].
    """
    if noncentrality > 4.0 * (value + 10.0 * df + 100.0):
        return 1.0  # more than ten standard deviations below the mean
    half, shift = value / 2.0, noncentrality / 2.0
    terms = np.arange(int(shift + 10.0 * math.sqrt(shift) + 20.0))
    log_gamma = np.cumsum(np.log(np.maximum(terms, 1)))
    weights = np.exp(terms * math.log(max(shift, 1e-300)) - shift - log_gamma)
    # P(chi2 with df + 2 j > value) grows by one Poisson-like term per j: Abramowitz and Stegun 26.4.8.
    powers = df / 2.0 + terms[:-1]
    steps = [math.exp(power * math.log(max(half, 1e-300)) - half - math.lgamma(power + 1.0)) for power in powers]
    tails = chi2_tail(value, df) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(min(weights @ tails, 1.0))


def enough(plan: MonitorPlan, size: float, noise_std: float, shift: float) -> tuple[float, float]:
    """How much more, or less noise, shows every stated change by the last window with probability `POWER`.

    Args:
        plan: what is watched.
        size: units in the sum of one window, > 0.
        noise_std: standard deviation of the noise of that sum, per bin.
        shift: standard deviations of ordered channels, > 0.

    Returns:
        Factor for the units, >= 1, and factor for the noise, <= 1; inf and 0 where none up to `MOST_FACTOR` is enough.
    """
    stated = [stated_change(channel, plan.unit, shift) for channel in plan.channels]

    def seen(more: float, less: float) -> bool:
        return all(
            chance(plan, place, each, size * more, noise_std * less) >= POWER for place, each in enumerate(stated)
        )

    def least(holds: Callable[[float], bool]) -> float:
        low, high = 1.0, MOST_FACTOR
        if holds(low):
            return low
        if not holds(high):
            return math.inf
        while high / low > 1.02:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high

    return least(lambda factor: seen(factor, 1.0)), 1.0 / least(lambda factor: seen(1.0, 1.0 / factor))


def forecast(plan: MonitorPlan, size: float, noise_std: float, shift: float) -> tuple[tuple[Forecast, ...], float]:
    """Try a plan on simulated fleets: every channel on its stated change, and all of them on none.

    Args:
        plan: what is watched.
        size: units in the sum of one window, >= 1.
        noise_std: standard deviation of the noise of that sum, per bin.
        shift: standard deviations of ordered channels, > 0.

    Returns:
        One forecast per channel, and the part of quiet runs with any alarm.
    """
    begin = plan.reference_windows + max(channel.warm_up for channel in plan.channels)
    quiet_windows = plan.reference_windows + plan.windows
    stated = [stated_change(channel, plan.unit, shift) for channel in plan.channels]
    moved = _watched(plan, stated, size, noise_std, (begin, max(quiet_windows - begin, 1)))
    quiet = _watched(plan, stated, size, noise_std, (quiet_windows, 0))
    told = [_told(plan, place, each, moved.alarms[:, begin:, place]) for place, each in enumerate(stated)]
    return tuple(told), float((quiet.first_alarm() >= 0).mean())


def _watched(
    plan: MonitorPlan, stated: Sequence[StatedChange], size: float, noise_std: float, windows: tuple[int, int]
) -> Runs:
    """Runs with so many quiet windows and so many changed ones."""
    rng = simulation_rng("drift forecast", len(plan.channels), *windows)
    before, after = windows
    parts = [
        np.concatenate(
            [
                _sums(channel.most * channel.scale(plan.unit), each.normal, size, before, rng),
                _sums(channel.most * channel.scale(plan.unit), each.normal + each.change, size, after, rng),
            ],
            axis=1,
        )
        for channel, each in zip(plan.channels, stated, strict=True)
    ]
    totals = np.concatenate(parts, axis=2)
    totals += noise_std * rng.standard_normal(totals.shape)
    # Sizes are in units already, so no rows are counted again.
    devices = [round(size / plan.unit.counted(1))] * (before + after)
    return watch_runs(plan, totals, devices, 1, noise_std)


def _sums(most: float, mean: Floats, size: float, windows: int, rng: np.random.Generator) -> Floats:
    """(runs, windows, bins): one sample per unit, `most` where it falls into a bin."""
    share = np.clip(mean / most, 0.0, 1.0)
    values, vectors = np.linalg.eigh(np.diag(share) - np.outer(share, share))
    draws = rng.standard_normal((MOST_RUNS, windows, len(mean))) * np.sqrt(np.maximum(values, 0.0) * size)
    sums: Floats = size * mean + most * (draws @ vectors.T)
    return sums


def _told(plan: MonitorPlan, place: int, stated: StatedChange, alarms: npt.NDArray[np.bool_]) -> Forecast:
    channel = plan.channels[place]
    left = plan.windows - max(each.warm_up for each in plan.channels)
    if left < 1:
        return Forecast(channel.name, stated.text, ((plan.windows, 0.0),), math.inf)
    ever = np.maximum.accumulate(alarms, axis=1).mean(axis=0)
    later = sorted({window for window in LATER if window < left} | {left})
    over = np.flatnonzero(ever >= 0.5)
    delay = float(over[0] + 1) if over.size else math.inf
    return Forecast(channel.name, stated.text, tuple((window, float(ever[window - 1])) for window in later), delay)
