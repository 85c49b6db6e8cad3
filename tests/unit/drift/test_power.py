"""What a watch promises at the settings that `fedinfer init` plans: silence without drift, and a stated change seen."""

import numpy as np
import pytest

from fedinfer.drift import POWER, channels, monitor, report_channels, smallest_shift
from fedinfer.types import Unit

DEVICES, ROWS, NOISE = 10, 150, 40.0
NAMES = tuple(f"d{number}" for number in range(DEVICES))
RUNS = 400


def plan(classes: int, unit: Unit = Unit.EXAMPLE) -> monitor.MonitorPlan:
    return monitor.MonitorPlan(
        channels=report_channels(classes),
        unit=unit,
        reference_windows=2,
        windows=3,
        false_alarm_rate=0.05,
        warning_rate=0.2,
        weight=0.6,
    )


def alarmed(watch: monitor.MonitorPlan, shares: np.ndarray, moved: np.ndarray, seed: int) -> bool:
    """Whether 2 + 3 windows alarm: devices differ (rows of `shares`), `moved` is their mix from window 3 on."""
    rng = np.random.default_rng(seed)
    state, bins = monitor.begin(watch), channels.width(watch.channels)
    for window in range(5):
        mix = shares if window < 2 else moved
        classes = np.sum([rng.multinomial(ROWS, part) for part in mix], axis=0)
        confidence = np.sum([rng.multinomial(ROWS, CONFIDENCE) for _ in mix], axis=0)
        total = np.r_[classes, confidence] + NOISE * rng.standard_normal(bins)
        state, result = monitor.observe(watch, state, monitor.WindowSum(window, total, NAMES, ROWS, NOISE))
        if result.alarms:
            return True
    return False


CONFIDENCE = np.array([0.05, 0.1, 0.15, 0.2, 0.2, 0.3])


@pytest.mark.parametrize("rare", [0.5, 0.05, 0.002])
def test_a_quiet_run_alarms_no_more_often_than_promised_whatever_the_classes(rare: float) -> None:
    rng = np.random.default_rng(8)
    part = np.clip(rare * rng.uniform(0.3, 1.7, DEVICES), 0, 1)
    shares = np.stack([1 - part, part], axis=1)
    alarms = sum(alarmed(plan(2), shares, shares, seed) for seed in range(RUNS))
    assert alarms <= 0.05 * RUNS + 2.33 * np.sqrt(0.05 * 0.95 * RUNS)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_stated_change_is_seen_as_often_as_stated_and_half_of_it_is_not(classes: int) -> None:
    shift = smallest_shift(plan(classes), DEVICES * ROWS, NOISE)
    even = np.full((DEVICES, classes), 1 / classes)
    seen = []
    for part in (shift, shift / 3):
        change = np.r_[-part, np.full(classes - 1, part / (classes - 1))]
        seen.append(np.mean([alarmed(plan(classes), even, even + change, seed) for seed in range(RUNS)]))
    assert POWER - 0.04 <= seen[0] <= 0.995
    assert seen[1] < 0.5


def test_more_noise_and_fewer_rows_hide_more_until_nothing_is_seen() -> None:
    figures = [smallest_shift(plan(2), DEVICES * ROWS, noise) for noise in (0.0, 20.0, 40.0, 80.0)]
    assert figures == sorted(figures)
    assert figures[0] < figures[-1] < 0.5
    assert smallest_shift(plan(2), DEVICES * ROWS, 400.0) == float("inf")
    assert smallest_shift(plan(2), 50.0, 40.0) == float("inf")
