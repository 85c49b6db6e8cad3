"""The server's watch over one model version: sums in, verdict out. Pure: every function returns a new state.

Rules:
* The first `reference_windows` windows after `begin` or `reset` are the reference; they raise no alarm.
* The promise: with no drift, at most `false_alarm_rate` of the runs of `windows` watched windows raise any alarm on any
  channel. Channels share it by Bonferroni.
* A model push changes the outputs, so it must `reset`; channels that look at inputs may keep their reference.
* Windows come in order, each once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from fedinfer.drift import sequential
from fedinfer.drift.channels import Channel, Floats, Source, split
from fedinfer.drift.reference import ReferenceSum, composition, empty_reference, extend
from fedinfer.drift.sequential import Ewma
from fedinfer.drift.statistics import (
    NoisySum,
    chi2_tail,
    degrees_of_freedom,
    quadratic_form,
    rate,
    rate_covariance,
    unit_covariance,
)
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.types import DeviceId, Json, Unit


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
    """

    channels: tuple[Channel, ...]
    unit: Unit
    reference_windows: int
    windows: int
    false_alarm_rate: float
    warning_rate: float
    weight: float

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


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Reference and running mean of one channel.

    Args:
        reference: what counts as normal; empty right after a push.
        ewma: weighted mean of the differences from it.
    """

    reference: ReferenceSum
    ewma: Ewma


@dataclass(frozen=True, slots=True)
class MonitorState:
    """What the monitor remembers between windows; encodable with fedinfer.wire.

    Args:
        channels: one state per channel of the plan, in its order.
        last_window: number of the last window that was taken in; -1 for none.
    """

    channels: tuple[ChannelState, ...]
    last_window: int = -1


@dataclass(frozen=True, slots=True)
class ChannelResult:
    """Verdict on one channel.

    Args:
        channel, source: which.
        p_value: of this window tested alone against the reference.
        statistic: MEWMA statistic, chi-square distributed without drift.
        warning_threshold, threshold: levels for a warning and for an alarm.
    """

    channel: str
    source: Source
    p_value: float
    statistic: float
    warning_threshold: float
    threshold: float

    @property
    def alarm(self) -> bool:
        """True above the alarm level."""
        return self.statistic > self.threshold

    @property
    def warning(self) -> bool:
        """True above the warning level."""
        return self.statistic > self.warning_threshold


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Verdict on one window.

    Args:
        window: its number.
        channels: results of the channels that are being watched.
        learning: names of the channels that are still collecting their reference.
    """

    window: int
    channels: tuple[ChannelResult, ...]
    learning: tuple[str, ...]

    @property
    def alarms(self) -> tuple[ChannelResult, ...]:
        """Channels above the alarm level, most surprising first."""
        over = (result for result in self.channels if result.alarm)
        return tuple(sorted(over, key=lambda result: result.threshold - result.statistic))

    @property
    def warning(self) -> bool:
        """True when any channel is above its warning level."""
        return any(result.warning for result in self.channels)

    def to_json(self) -> Json:
        """For events and reports."""
        return {
            "window": self.window,
            "learning": list(self.learning),
            "channels": [
                {
                    "channel": result.channel,
                    "p_value": result.p_value,
                    "statistic": result.statistic,
                    "warning_threshold": result.warning_threshold,
                    "threshold": result.threshold,
                    "alarm": result.alarm,
                }
                for result in self.channels
            ],
        }


def begin(plan: MonitorPlan) -> MonitorState:
    """Before the first window of the first model.

    Args:
        plan: what is watched.
    """
    return MonitorState(tuple(_fresh(channel) for channel in plan.channels))


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
        replace(old, ewma=sequential.start(degrees_of_freedom(channel))) if channel.name in keep else _fresh(channel)
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
    states, results, learning = [], [], []
    for channel, old in zip(plan.channels, state.channels, strict=True):
        observed = NoisySum(pieces[channel.name], size, report.noise_std**2)
        if old.reference.windows < plan.reference_windows:
            learning.append(channel.name)
            states.append(_learn(plan, old, observed, report.reporters))
        else:
            new, result = _watch(plan, channel, old, observed, report.reporters)
            states.append(new)
            results.append(result)
    return MonitorState(tuple(states), report.window), WindowResult(report.window, tuple(results), tuple(learning))


def _fresh(channel: Channel) -> ChannelState:
    return ChannelState(empty_reference(channel.bins), sequential.start(degrees_of_freedom(channel)))


def _learn(plan: MonitorPlan, old: ChannelState, observed: NoisySum, reporters: tuple[DeviceId, ...]) -> ChannelState:
    # One device's report is bounded by one sample whoever it is, so only counts need to know who reported.
    match plan.unit:
        case Unit.EXAMPLE:
            who = reporters
        case Unit.DEVICE | Unit.NONE:
            who = ()
        case _:
            assert_never(plan.unit)
    return replace(old, reference=extend(old.reference, observed, who))


def _watch(
    plan: MonitorPlan, channel: Channel, old: ChannelState, observed: NoisySum, reporters: tuple[DeviceId, ...]
) -> tuple[ChannelState, ChannelResult]:
    reference = old.reference.sum
    one_unit = unit_covariance(channel, reference.total, reference.size)
    own, shared = rate_covariance(one_unit, observed), rate_covariance(one_unit, reference)
    # Linear like the rate itself: averaging scales a standard deviation by the weight, a variance by its square.
    moved = composition(old.reference, reporters) ** 0.5
    difference = rate(channel, observed) - rate(channel, reference)
    ewma = sequential.advance(old.ewma, plan.weight, difference, own, moved)
    warning, alarm = _thresholds(plan, channel, float(np.trace(shared) / np.trace(own + shared)))
    result = ChannelResult(
        channel=channel.name,
        source=channel.source,
        p_value=chi2_tail(quadratic_form(difference, own + shared), degrees_of_freedom(channel)),
        statistic=sequential.statistic(ewma, shared, one_unit),
        warning_threshold=warning,
        threshold=alarm,
    )
    return replace(old, ewma=ewma), result


def _thresholds(plan: MonitorPlan, channel: Channel, shared: float) -> tuple[float, float]:
    # Bonferroni over channels: the promise is about any alarm, and the channels of a report depend on each other.
    df, parts = degrees_of_freedom(channel), len(plan.channels)
    warning, alarm = (
        sequential.threshold(df, plan.windows, plan.weight, shared, rate / parts)
        for rate in (plan.warning_rate, plan.false_alarm_rate)
    )
    return warning, alarm
