"""Channels of labelled rows: how many labels come says nothing, how they are shared out does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fedinfer.drift import MonitorPlan, chosen_channels
from fedinfer.drift.channels import Channel, Outputs, tally
from fedinfer.drift.estimate import labelled_accuracy
from fedinfer.drift.labelled import bin_spread, measured, noise_spread, says_something
from fedinfer.drift.monitor import WindowSum, begin, observe
from fedinfer.drift.runs import watch_runs
from fedinfer.drift.sketch import report_norm, window_report
from fedinfer.drift.statistics import NoisySum, contrasts, rate, rate_covariance
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit

SCHEMA = Schema((Numeric("x", 0, 1),), "y", ("a", "b"))
ERRORS, CALIBRATION = chosen_channels(SCHEMA, ["errors", "calibration"])
DEVICES, NOISE = 400, 4.0


def sums(channel: Channel, shares: np.ndarray, labelled: np.ndarray, runs: int, rng: np.random.Generator) -> np.ndarray:
    """(runs, windows, bins): so many devices have a label, one each; noise included."""
    drawn = [rng.multinomial(int(count), shares, runs) for count in labelled]
    exact = np.stack(drawn, axis=1) * channel.scale(Unit.DEVICE)
    return exact + NOISE * rng.standard_normal(exact.shape)


def plan(*channels: Channel) -> MonitorPlan:
    return MonitorPlan(channels, Unit.DEVICE, 3, 20, 0.05, 0.2, 0.4)


@pytest.mark.parametrize("channel", [ERRORS, CALIBRATION], ids=["errors", "calibration"])
def test_how_many_labels_come_raises_no_alarm(channel: Channel) -> None:
    rng = np.random.default_rng(1)
    half = channel.bins // 2
    shares = np.repeat([0.85, 0.15], half) / half
    labelled = np.r_[np.full(3, DEVICES), rng.integers(DEVICES // 3, DEVICES, 20)]
    found = watch_runs(plan(channel), sums(channel, shares, labelled, 1000, rng), [DEVICES] * 23, 1, NOISE)
    assert (found.first_alarm() >= 0).mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_more_errors_are_seen_although_fewer_labels_come() -> None:
    rng = np.random.default_rng(2)
    before = sums(ERRORS, np.array([0.9, 0.1]), np.full(4, DEVICES), 400, rng)
    after = sums(ERRORS, np.array([0.75, 0.25]), np.full(6, DEVICES // 2), 400, rng)
    found = watch_runs(plan(ERRORS), np.concatenate([before, after], axis=1), [DEVICES] * 10, 1, NOISE)
    assert (found.alarms[:, :4].any(axis=(1, 2))).mean() < 0.05
    assert (found.first_alarm() >= 4).mean() > 0.9


def test_the_covariance_of_a_rate_is_that_of_drawn_sums() -> None:
    rng = np.random.default_rng(3)
    shares = np.array([0.6, 0.2, 0.1, 0.1])
    channel = replace(CALIBRATION, bins=4, names=())
    drawn = rng.multinomial(DEVICES, shares, 40_000) * channel.scale(Unit.DEVICE)
    drawn = drawn + NOISE * rng.standard_normal(drawn.shape)
    observed = measured(channel, Unit.DEVICE, NoisySum(drawn, DEVICES, NOISE**2))
    exact = NoisySum(shares * DEVICES, DEVICES, NOISE**2 / channel.clip_share)
    a = contrasts(4, channel.kind)
    one_unit = a.T @ (np.diag(shares) - np.outer(shares, shares)) @ a
    told = rate_covariance(one_unit, exact, noise_spread(channel, exact))
    np.testing.assert_allclose(np.cov(rate(channel, observed).T), told, rtol=0.05, atol=2e-5)
    of_bins = (shares * (1 - shares) + exact.noise_variance / DEVICES * bin_spread(channel, exact)) / DEVICES
    np.testing.assert_allclose((observed.total / observed.size[:, None]).var(axis=0), of_bins, rtol=0.05)


def test_a_window_with_hardly_any_label_is_passed_over() -> None:
    state, results = begin(plan(ERRORS)), []
    for window, labels in enumerate([400.0, 400.0, 2.0, 400.0, 2.0, 400.0]):
        total = np.array([0.9, 0.1]) * labels * ERRORS.scale(Unit.DEVICE)
        before = state.channels[0]
        state, result = observe(plan(ERRORS), state, WindowSum(window, total, ("d",) * DEVICES, 1, NOISE))
        results.append((result.learning, result.unlabelled, len(result.channels)))
        if result.unlabelled:
            assert state.channels[0] is before
    learning, nothing = (("errors",), (), 0), ((), ("errors",), 0)
    assert results == [learning, learning, nothing, learning, nothing, ((), (), 1)]
    assert result.channels[0].p_value > 0.9
    (right, wrong) = sorted(result.channels[0].changes, key=lambda change: change.bin)
    assert (right.before, wrong.before) == (pytest.approx(0.9), pytest.approx(0.1))
    assert not says_something(ERRORS, NoisySum(np.array([0.0, 0.0]), 1, 0.0))
    assert says_something(chosen_channels(SCHEMA, ())[0], NoisySum(np.array([0.0, 0.0]), 1, 0.0))


def test_devices_with_few_errors_count_as_much_as_others() -> None:
    channels = (ERRORS, CALIBRATION)
    of_devices = [np.array([20.0, 0.0]), np.array([10.0, 10.0]), np.array([0.0, 3.0]), np.zeros(2)]
    total = np.zeros(2 + CALIBRATION.bins)
    for counts in of_devices:
        spread = np.zeros(CALIBRATION.bins)
        spread[[0, 5]] = counts
        report = window_report([counts, spread], Unit.DEVICE, channels, rows=40)
        assert np.linalg.norm(report.astype(float)) <= report_norm(Unit.DEVICE, channels)
        total += report
    found = labelled_accuracy(ERRORS, Unit.DEVICE, NoisySum(total[:2], 4, 0.0))
    assert found is not None
    assert found.value == pytest.approx((1.0 + 0.5 + 0.0) / 3, abs=1e-6)
    assert found.low < found.value < found.high
    assert labelled_accuracy(ERRORS, Unit.DEVICE, NoisySum(np.zeros(2), 4, 0.0)) is None
    counted = labelled_accuracy(ERRORS, Unit.EXAMPLE, NoisySum(np.array([30.0, 10.0]), 200, 1.0))
    assert counted is not None
    assert counted.value == pytest.approx(0.75)


def test_calibration_counts_rows_by_confidence_and_whether_they_were_right() -> None:
    sure = np.array([0.55, 0.95, 0.95, 0.72, 0.99])
    labels, truth = np.array([0, 0, 1, 0, 1]), np.array([0, 1, 1, -1, 1])
    probabilities = np.where(labels[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
    counts = tally(CALIBRATION, Outputs(labels, probabilities, None, truth))
    assert counts.tolist() == [1, 0, 0, 0, 2, 0, 0, 0, 0, 1]
    assert tally(CALIBRATION, Outputs(labels, probabilities)).tolist() == [0.0] * 10
    assert CALIBRATION.bin_name(9) == "sure 0.90 to 1.00, wrong"
    number = Schema((Numeric("x", 0, 1),), "y", (), label_range=(0.0, 1.0))
    with pytest.raises(ConfigError, match="'calibration' is for classes"):
        chosen_channels(number, ["calibration"])
