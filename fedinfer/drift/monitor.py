"""The server's watch over one model version: sums in, verdict out. Pure: every function returns a new state.

Rules:
* The first `reference_windows` windows after `begin` or `reset` are the reference; they raise no alarm.
* The promise: with no drift, at most `false_alarm_rate` of the runs of `windows` watched windows raise any alarm on any
  channel. Channels share it by Bonferroni.
* Open end: with `average_run_length` the reference is renewed after every `windows` watched windows, and the promise is
  that a quiet fleet raises a false alarm once in so many watched windows on average.
* A model push changes the outputs, so it must `reset`; channels that look at inputs may keep their reference.
* Windows come in order, each once. One with too few labels is no window of a channel that looks at labels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import assert_never

import numpy as np

from fedinfer.drift import sequential
from fedinfer.drift.channels import Channel, Floats, split
from fedinfer.drift.labelled import bin_spread, measured, noise_spread, says_something
from fedinfer.drift.reference import composition, extend
from fedinfer.drift.state import ChannelState, MonitorState, fresh
from fedinfer.drift.statistics import (
    NoisySum,
    cautious_covariance,
    cautious_variance,
    chi2_tail,
    column,
    degrees_of_freedom,
    quadratic_form,
    rate,
    rate_covariance,
)
from fedinfer.drift.verdict import BinChange, ChannelResult, WindowResult
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.types import DeviceId, Unit

KEEPING, MEETING = 1.0, 0.25
"""Standard errors on top of a covariance, for a false-alarm rate that is a bound and for a mean run length."""
COVERED = 0.95
"""Probability with which the intervals of all bins of a channel hold together."""


@dataclass(frozen=True, slots=True)
class MonitorPlan:
    """What is watched and what is promised.

    Args:
        channels: histograms of a report, in order.
        unit: `device` (normalised, clipped reports) or `example` (counts).
        reference_windows: windows that make the reference, >= 1; the reference's own noise is accounted for.
        windows: watched windows after them over which the promise holds, >= 1.
        false_alarm_rate: probability of any alarm in a quiet run, in (0, 1).
        warning_rate: the same for a warning, >= false_alarm_rate.
        weight: MEWMA weight in (0, 1]; 0.5 suits runs of about 10 windows, 0.2 runs of 100.
        average_run_length: 0 for a run that ends; else the watch has no end, and this takes the place of both rates:
            mean number of watched windows to a false alarm, > 1; a warning comes four times as often.
    """

    channels: tuple[Channel, ...]
    unit: Unit
    reference_windows: int
    windows: int
    false_alarm_rate: float
    warning_rate: float
    weight: float
    average_run_length: float = 0.0

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"drift channels {names} must be present and have different names")
        if self.unit is Unit.NONE or self.reference_windows < 1 or self.windows < 1:
            raise ConfigError(
                f"drift needs a privacy unit and at least 1 reference and 1 watched window, "
                f"got {self.unit}, {self.reference_windows} and {self.windows}"
            )
        if not 0 < self.false_alarm_rate <= self.warning_rate < 1 or not 0 < self.weight <= 1:
            raise ConfigError(
                f"0 < false alarm rate {self.false_alarm_rate} <= warning rate {self.warning_rate} < 1 and "
                f"0 < weight {self.weight} <= 1 must hold"
            )
        if self.average_run_length and not self.average_run_length > 1:
            raise ConfigError(f"average run length {self.average_run_length} must be above 1 window, or 0")

    @property
    def caution(self) -> float:
        """Standard errors by which the covariance is widened: an upper bound is kept, a mean is met (measured)."""
        return MEETING if self.average_run_length else KEEPING


@dataclass(frozen=True, slots=True)
class WindowSum:
    """A released drift report of the fleet.

    Args:
        window: number of the window.
        total: decoded sum, shape (width of the channels,).
        reporters: devices in the sum.
        rows: rows per reporter (public: a window closes at this count); only used with unit `example`.
        noise_std: standard deviation of the summed noise per coordinate, in units of `total`.
    """

    window: int
    total: Floats
    reporters: tuple[DeviceId, ...]
    rows: int
    noise_std: float


def begin(plan: MonitorPlan) -> MonitorState:
    """Before the first window of the first model.

    Args:
        plan: what is watched.
    """
    return MonitorState(tuple(fresh(channel) for channel in plan.channels))


def reset(plan: MonitorPlan, state: MonitorState, keep: Collection[str]) -> MonitorState:
    """After a model push: learn new references, except for channels whose figures a new model does not change.

    Args:
        plan: what is watched.
        state: before the push.
        keep: names of channels that keep their reference (those that look at inputs, while they are sound).

    Returns:
        The number of the last window stays, so that no window comes twice.

    Raises:
        ConfigError: `keep` names a channel that the plan does not have.
    """
    known = {channel.name for channel in plan.channels}
    if not set(keep) <= known:
        raise ConfigError(f"no drift channel is called {sorted(set(keep) - known)}, there are {sorted(known)}")
    channels = tuple(
        replace(fresh(channel), reference=old.reference, seen=old.seen) if channel.name in keep else fresh(channel)
        for channel, old in zip(plan.channels, state.channels, strict=True)
    )
    return replace(state, channels=channels)


def observe(plan: MonitorPlan, state: MonitorState, report: WindowSum) -> tuple[MonitorState, WindowResult]:
    """Take in one window.

    Args:
        plan: what is watched.
        state: before the window.
        report: the released sum.

    Returns:
        The state after it and the verdict.

    Raises:
        BadMessage: a window out of order, without reporters, of the wrong length, or not finite.
    """
    if report.window <= state.last_window:
        raise BadMessage(f"drift window {report.window} after window {state.last_window}")
    if not report.reporters:
        raise BadMessage(f"drift window {report.window} has no reporters")
    size = len(report.reporters) * plan.unit.counted(report.rows)
    pieces = split(report.total, plan.channels)
    states, results, learning, unlabelled = [], [], [], []
    for channel, before in zip(plan.channels, state.channels, strict=True):
        observed = NoisySum(pieces[channel.name], size, report.noise_std**2)
        old = renewed(plan, channel, before)
        if not says_something(channel, observed):
            unlabelled.append(channel.name)
            states.append(old)
        elif learns(plan, channel, old):
            learning.append(channel.name)
            states.append(learn(plan, channel, old, observed, report.reporters))
        else:
            new, step = compare(plan, channel, old, observed, composition(old.reference, report.reporters))
            states.append(new)
            results.append(_verdict(plan, channel, new, step))
    result = WindowResult(report.window, tuple(results), tuple(learning), tuple(unlabelled))
    return MonitorState(tuple(states), report.window), result


def renewed(plan: MonitorPlan, channel: Channel, old: ChannelState) -> ChannelState:
    """Without an end, a channel that was compared for `windows` windows begins a new reference.

    Args:
        plan: what is watched.
        channel: one of its.
        old: its state.
    """
    return fresh(channel) if plan.average_run_length and old.ewma.windows >= plan.windows else old


def learns(plan: MonitorPlan, channel: Channel, old: ChannelState) -> bool:
    """Whether a channel's next window belongs to its warm-up or its reference.

    Args:
        plan: what is watched.
        channel: one of its.
        old: its state.
    """
    return old.seen < channel.warm_up + plan.reference_windows


def learn(
    plan: MonitorPlan, channel: Channel, old: ChannelState, observed: NoisySum, reporters: tuple[DeviceId, ...]
) -> ChannelState:
    """Take a window into the reference, or skip it during the warm-up.

    Args:
        plan: what is watched.
        channel: one of its.
        old: its state; `learns` says that it learns.
        observed: the channel's sum, (..., bins).
        reporters: devices in it.
    """
    if old.seen < channel.warm_up:
        return replace(old, seen=old.seen + 1)
    # One device's report is bounded by one sample whoever it is, so only counts need to know who reported.
    match plan.unit:
        case Unit.EXAMPLE:
            who = reporters
        case Unit.DEVICE | Unit.NONE:
            who = ()
        case _:
            assert_never(plan.unit)
    return replace(old, reference=extend(old.reference, observed, who), seen=old.seen + 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of one window of a channel; arrays of many runs have leading dimensions.

    Args:
        alone: squared length of this window's difference in units of its covariance, (...).
        statistic: of the running mean, (...).
        warning, alarm: its levels, (...).
        reference_variance, unit_variance: of the reference's rate and of one unit's report per bin, (..., bins).
    """

    alone: Floats
    statistic: Floats
    warning: Floats
    alarm: Floats
    reference_variance: Floats
    unit_variance: Floats


def compare(
    plan: MonitorPlan, channel: Channel, old: ChannelState, observed: NoisySum, composed: float
) -> tuple[ChannelState, Comparison]:
    """Compare a window with the reference.

    Args:
        plan: what is watched.
        channel: one of its.
        old: its state, with a whole reference.
        observed: the channel's sum, (..., bins).
        composed: what a change of reporters may explain, see `reference.composition`.

    Returns:
        The state after it, and the figures.
    """
    reference, observed = (measured(channel, plan.unit, each) for each in (old.reference.sum, observed))
    one_unit, spread = cautious_covariance(channel, reference, plan.caution), noise_spread(channel, reference)
    own, shared = (rate_covariance(one_unit, each, spread) for each in (observed, reference))
    # Linear like the rate itself: averaging scales a standard deviation by the weight, a variance by its square.
    moved = composed**0.5
    difference = rate(channel, observed) - rate(channel, reference)
    ewma = sequential.advance(old.ewma, plan.weight, difference, own, moved)
    part = np.trace(shared, axis1=-2, axis2=-1) / np.trace(own + shared, axis1=-2, axis2=-1)
    warning, alarm = _thresholds(plan, channel, part)
    unit, of_bins = cautious_variance(channel, reference, plan.caution), bin_spread(channel, reference)
    bins = sequential.advance(
        old.bins, plan.weight, _bin_rates(observed) - _bin_rates(reference),
        _rate_variance(unit, observed, of_bins), moved,
    )  # fmt: skip
    figures = Comparison(
        alone=quadratic_form(difference, own + shared),
        statistic=sequential.statistic(ewma, shared, one_unit),
        warning=warning,
        alarm=alarm,
        reference_variance=_rate_variance(unit, reference, of_bins),
        unit_variance=unit,
    )
    return replace(old, ewma=ewma, bins=bins, seen=old.seen + 1), figures


def _bin_rates(observed: NoisySum) -> Floats:
    rates: Floats = observed.total / column(observed.size)
    return rates


def _rate_variance(unit: Floats, observed: NoisySum, spread: Floats) -> Floats:
    size = column(observed.size)
    variance: Floats = unit / size + observed.noise_variance / size**2 * spread
    return variance


def _thresholds(plan: MonitorPlan, channel: Channel, shared: Floats) -> tuple[Floats, Floats]:
    # Bonferroni over channels: the promise is about any alarm, and the channels of a report depend on each other.
    df, parts = degrees_of_freedom(channel), len(plan.channels)

    def levels(part: float) -> tuple[float, float]:
        if plan.average_run_length:
            lengths = (plan.average_run_length * parts / 4, plan.average_run_length * parts)
            warning, alarm = (
                sequential.standing_threshold(df, plan.windows, plan.weight, part, length) for length in lengths
            )
        else:
            warning, alarm = (
                sequential.threshold(df, plan.windows, plan.weight, part, rate / parts)
                for rate in (plan.warning_rate, plan.false_alarm_rate)
            )
        return warning, alarm

    found, where = np.unique(sequential.rounded(shared), return_inverse=True)
    table = np.array([levels(part) for part in found])[where.reshape(shared.shape)]
    return table[..., 0], table[..., 1]


def _verdict(plan: MonitorPlan, channel: Channel, state: ChannelState, step: Comparison) -> ChannelResult:
    return ChannelResult(
        channel=channel.name,
        source=channel.source,
        p_value=chi2_tail(float(step.alone), degrees_of_freedom(channel)),
        statistic=float(step.statistic),
        warning_threshold=float(step.warning),
        threshold=float(step.alarm),
        changes=_changes(channel, state, _bin_rates(measured(channel, plan.unit, state.reference.sum)), step),
    )


def _changes(channel: Channel, state: ChannelState, before: Floats, step: Comparison) -> tuple[BinChange, ...]:
    """Every bin's running mean difference with an interval; Sidak 1967 covers bins that depend on each other."""
    bins = state.bins
    # The weights so far sum to `bins.reference`: dividing by it makes the mean one of the present difference.
    variance = (bins.own + bins.composition**2 * step.unit_variance) / bins.reference**2 + step.reference_variance
    half = NormalDist().inv_cdf((1 + COVERED ** (1 / channel.bins)) / 2) * np.sqrt(variance)
    mean = bins.mean / bins.reference
    order = np.argsort(-np.abs(mean) / half, kind="stable")
    return tuple(
        BinChange(
            channel.bin_name(place), float(before[place]), float(mean[place]),
            float(mean[place] - half[place]), float(mean[place] + half[place]),
        )
        for place in map(int, order)
    )  # fmt: skip
