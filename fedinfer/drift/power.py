"""What a watch can see: the least change of the answers that it finds nearly always, known before the first window.

The change is stated in the channel `predicted_class`: a part of the rows gets another class than before. It starts with
the first watched window and lasts; the figure holds for the last one, where the running mean has seen most of it. The
reference is taken as evenly spread over the classes, which has the largest variance.
"""

from __future__ import annotations

import math

import numpy as np

from fedinfer.drift import sequential
from fedinfer.drift.channels import Channel, Floats
from fedinfer.drift.labelled import measured, noise_spread
from fedinfer.drift.monitor import MonitorPlan
from fedinfer.drift.statistics import (
    NoisySum,
    contrasts,
    degrees_of_freedom,
    quadratic_form,
    rate_covariance,
    unit_covariance,
)
from fedinfer.system import simulation_rng

POWER = 0.9
"""Probability with which the stated change is seen."""
STEP = 0.01
_DRAWS = 4000


def smallest_shift(plan: MonitorPlan, size: float, noise_std: float) -> float:
    """The least part of the answers whose change is seen with probability `POWER`.

    Args:
        plan: channels, windows and false-alarm rate; the first channel holds the predicted classes.
        size: units in the sum of one window: devices, or rows for unit `example`, > 0.
        noise_std: standard deviation of the noise of that sum, per bin.

    Returns:
        In (0, 1], rounded up to `STEP`; inf when not even a change of every answer would be seen.
    """
    channel = plan.channels[0]
    window = NoisySum(np.full(channel.bins, size / channel.bins), size, noise_std**2)
    many = plan.reference_windows
    reference = NoisySum(window.total * many, size * many, window.noise_variance * many)
    covariance, threshold, reach = at_the_end(plan, channel, window, reference)
    direction = contrasts(channel.bins, channel.kind).T @ _moved(channel.bins)
    # The length of a shift in units of the covariance decides; its direction does not.
    needed = _noncentrality(degrees_of_freedom(channel), threshold)
    unit = float(quadratic_form(reach * direction, covariance))
    shift = math.ceil(math.sqrt(needed / unit) / STEP - 1e-9) * STEP
    return round(shift, 2) if shift <= 1.0 - 1.0 / channel.bins else math.inf


def at_the_end(
    plan: MonitorPlan, channel: Channel, window: NoisySum, reference: NoisySum
) -> tuple[Floats, float, float]:
    """What decides about a change that lasts from the first watched window to the last.

    Args:
        plan: what is watched.
        channel: one of its.
        window: expected sum of one window.
        reference: expected sum of the reference windows.

    Returns:
        Covariance of the running mean after the last window, alarm level, and how much of a lasting shift is in it.
    """
    window, reference = (measured(channel, plan.unit, each) for each in (window, reference))
    one_unit, spread = unit_covariance(channel, reference.total, reference.size), noise_spread(channel, reference)
    own, shared = (rate_covariance(one_unit, each, spread) for each in (window, reference))
    df, rest = degrees_of_freedom(channel), (1 - plan.weight) ** plan.windows
    variance = plan.weight**2 * sum((1 - plan.weight) ** (2 * window) for window in range(plan.windows))
    part = float(np.trace(shared) / np.trace(own + shared))
    level = sequential.threshold(df, plan.windows, plan.weight, part, plan.false_alarm_rate / len(plan.channels))
    return variance * own + (1 - rest) ** 2 * shared, level, 1 - rest


def _moved(bins: int) -> Floats:
    """A part of the rows leaves one class and is spread over the others: the change of the rates for part 1."""
    change = np.full(bins, 1.0 / (bins - 1))
    change[0] = -1.0
    return change


def _noncentrality(df: int, threshold: float) -> float:
    """Squared length of a shift with which a chi-square variable exceeds the threshold with probability `POWER`."""
    draws = simulation_rng("drift power", df).standard_normal((_DRAWS, df))
    low, high = 0.0, 4.0 * (threshold + 10.0 * df + 10.0)
    for _ in range(40):
        middle = (low + high) / 2
        shifted = draws.copy()
        shifted[:, 0] += math.sqrt(middle)
        seen = float((np.square(shifted).sum(axis=1) > threshold).mean())
        low, high = (low, middle) if seen >= POWER else (middle, high)
    return high
