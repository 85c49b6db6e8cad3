import numpy as np
import pytest
from scipy import stats

from fedinfer.drift.sequential import advance, start, statistic, threshold
from fedinfer.errors import ConfigError


def alarm_rate(df, windows, weight, shared, level, runs, seed):
    rng, alarms = np.random.default_rng(seed), 0
    own, reference = np.eye(df) * (1 - shared), np.eye(df) * shared
    for _ in range(runs):
        offset, state, alarmed = np.sqrt(shared) * rng.standard_normal(df), start(df), False
        for _ in range(windows):
            difference = offset + np.sqrt(1 - shared) * rng.standard_normal(df)
            state = advance(state, weight, difference, own, 0.0)
            alarmed |= statistic(state, reference, np.eye(df)) > level
        alarms += alarmed
    return alarms / runs


@pytest.mark.parametrize(("df", "windows", "weight", "shared"), [(3, 10, 0.5, 0.25), (9, 20, 0.2, 0.0)])
def test_quiet_runs_alarm_at_the_promised_rate(df, windows, weight, shared):
    level = threshold(df, windows, weight, shared, 0.05)
    found = alarm_rate(df, windows, weight, shared, level, runs=2000, seed=3)
    assert 0.03 <= found <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_statistic_is_chi_square_at_every_window():
    rng, values = np.random.default_rng(0), []
    own, reference = np.diag([1.0, 2.0, 0.5]), np.diag([0.3, 0.1, 0.4])
    for _ in range(1500):
        offset, state = rng.multivariate_normal(np.zeros(3), reference), start(3)
        for _ in range(7):
            state = advance(state, 0.3, offset + rng.multivariate_normal(np.zeros(3), own), own, 0.0)
        values.append(statistic(state, reference, own))
    assert stats.kstest(values, stats.chi2(3).cdf).pvalue > 0.01


def test_threshold_lies_between_one_window_and_bonferroni():
    for df in (1, 3, 9):
        level = threshold(df, 12, 0.5, 0.0, 0.05)
        assert stats.chi2.isf(0.05, df) < level < stats.chi2.isf(0.05 / 12, df) * 1.05


def test_threshold_moves_the_right_way():
    base = threshold(3, 10, 0.5, 0.2, 0.05)
    assert threshold(3, 40, 0.5, 0.2, 0.05) > base
    assert threshold(9, 10, 0.5, 0.2, 0.05) > base
    assert threshold(3, 10, 0.5, 0.2, 0.01) > base
    assert threshold(3, 10, 0.5, 0.9, 0.05) < base
    assert threshold(3, 10, 0.5, 0.24, 0.05) == base  # rounded down: the safe side
    assert threshold(3, 10, 0.5, 0.2, 0.05) == base


def test_threshold_for_one_window_is_the_chi_square_quantile():
    assert threshold(4, 1, 1.0, 0.0, 0.05) == pytest.approx(stats.chi2.isf(0.05, 4), rel=0.03)


@pytest.mark.parametrize(
    "arguments",
    [(0, 5, 0.5, 0.0, 0.05), (3, 0, 0.5, 0.0, 0.05), (3, 5, 0.0, 0.0, 0.05), (3, 5, 1.1, 0.0, 0.05),
     (3, 5, 0.5, 1.0, 0.05), (3, 5, 0.5, -0.1, 0.05), (3, 5, 0.5, 0.0, 0.0), (3, 5, 0.5, 0.0, 1.0)],
)  # fmt: skip
def test_threshold_refuses_values_out_of_range(arguments):
    with pytest.raises(ConfigError, match="no threshold"):
        threshold(*arguments)
