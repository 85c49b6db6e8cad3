"""The test for one window: right level, power of the research tables, and why cut-offs on noisy counts are missing."""

import math

import numpy as np
import pytest
from scipy import stats

from fedinfer.drift.channels import Bins, Source
from fedinfer.drift.statistics import (
    NoisySum,
    chi2_tail,
    contrasts,
    degrees_of_freedom,
    quadratic_form,
    rate,
    rate_covariance,
    unit_covariance,
)
from fedinfer.errors import ConfigError
from tests.unit.drift.entries import uncounted

ORDERED = uncounted("x", 10, Bins.ORDERED, Source.INPUT)
CATEGORIES = uncounted("x", 10, Bins.CATEGORIES, Source.OUTPUT)
EVEN = np.full(10, 0.1)
SIGMA = {4.0: 1.19, 1.0: 4.22, 0.25: 15.4}  # summed noise for one release, delta 1e-6 (exact Gaussian curve)
EXACT = NoisySum(EVEN * 1e9, 1e9, 0.0)


def p_value(channel, observed, reference):
    """One window tested alone, from the parts that the monitor puts together for many."""
    one_unit = unit_covariance(channel, reference.total, reference.size)
    covariance = rate_covariance(one_unit, observed) + rate_covariance(one_unit, reference)
    difference = rate(channel, observed) - rate(channel, reference)
    return chi2_tail(quadratic_form(difference, covariance), degrees_of_freedom(channel))


def shifted(shift, bins=10, scale=1.0):
    edges = np.r_[-np.inf, stats.norm.ppf(np.arange(1, bins) / bins), np.inf]
    return np.diff(stats.norm.cdf((edges - shift) / scale))


def rate_below(channel, probabilities, devices, sigma, level, reference=None, runs=2000, seed=0):
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(runs):
        total = rng.multinomial(devices, probabilities) + sigma * rng.standard_normal(10)
        against = EXACT if reference is None else reference(rng)
        hits += p_value(channel, NoisySum(total, devices, sigma**2), against) < level
    return hits / runs


def upper(level, runs):
    return level + 3 * math.sqrt(level * (1 - level) / runs)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 9, 10, 99, 500])
def test_chi2_tail_is_scipys(df):
    for value in (0.0, 1e-9, 0.3, 1.0, df * 0.5, df * 1.0, df * 2.0, df * 5.0, 3000.0):
        assert chi2_tail(value, df) == pytest.approx(stats.chi2.sf(value, df), rel=1e-9, abs=1e-290)
    assert chi2_tail(-1.0, df) == 1.0


@pytest.mark.parametrize("kind", list(Bins))
@pytest.mark.parametrize("bins", [2, 3, 4, 10, 32])
def test_contrasts_are_orthonormal_and_blind_to_a_constant_except_for_shares(bins, kind):
    a = contrasts(bins, kind)
    df = {Bins.CATEGORIES: bins - 1, Bins.ORDERED: min(3, bins - 1), Bins.SHARES: bins}
    assert a.shape[1] == df[kind]
    assert np.allclose(a.T @ a, np.eye(a.shape[1]))
    assert kind is Bins.SHARES or np.allclose(a.sum(0), 0)
    assert not a.flags.writeable


@pytest.mark.parametrize("channel", [ORDERED, CATEGORIES], ids=["ordered", "categories"])
@pytest.mark.parametrize(("devices", "sigma"), [(100, 0.0), (100, 4.22), (1000, 4.22), (100, 15.4), (1000, 15.4)])
def test_level_holds_with_noise(channel, devices, sigma):
    found = rate_below(channel, EVEN, devices, sigma, 0.01)
    assert found <= upper(0.01, 2000)


@pytest.mark.parametrize("channel", [ORDERED, CATEGORIES], ids=["ordered", "categories"])
def test_level_holds_against_a_noisy_reference(channel):
    def reference(rng):
        return NoisySum(rng.multinomial(600, EVEN) + 26.0 * rng.standard_normal(10), 600, 26.0**2)

    assert rate_below(channel, EVEN, 200, 15.0, 0.01, reference) <= upper(0.01, 2000)
    assert rate_below(channel, EVEN, 200, 15.0, 0.05, reference) == pytest.approx(0.05, abs=0.02)


def test_ignoring_the_noise_of_the_reference_would_be_wrong():
    def believed_exact(rng):
        return NoisySum(rng.multinomial(600, EVEN) + 26.0 * rng.standard_normal(10), 600, 0.0)

    assert rate_below(ORDERED, EVEN, 200, 15.0, 0.01, believed_exact) > 0.013


@pytest.mark.parametrize(
    ("devices", "epsilon", "shift", "least"),
    [
        (300, 1.0, 0.3, 0.80),
        (1000, 0.25, 0.3, 0.95),
        (1000, 1.0, 0.2, 0.97),
        (300, 4.0, 0.3, 0.93),
        (300, 0.25, 0.5, 0.40),
    ],
)
def test_power_of_the_smooth_test_for_a_shift(devices, epsilon, shift, least):
    assert rate_below(ORDERED, shifted(shift), devices, SIGMA[epsilon], 0.01, runs=1000) >= least


def test_power_for_a_change_of_scale_and_for_categories():
    assert rate_below(ORDERED, shifted(0.0, scale=1.3), 300, SIGMA[1.0], 0.01, runs=1000) >= 0.78
    missing = np.r_[0.0, np.full(9, 1 / 9)]
    assert rate_below(CATEGORIES, missing, 1000, SIGMA[1.0], 0.01, runs=500) >= 0.99


def test_cut_offs_on_noisy_counts_raise_false_alarms_where_this_test_does_not():
    """PSI 0.25 ("large drift") on counts of 100 devices at epsilon 1: most quiet windows alarm."""
    rng, psi_alarms, chi2_alarms = np.random.default_rng(1), 0, 0
    for _ in range(1000):
        counts = rng.multinomial(100, EVEN) + SIGMA[1.0] * rng.standard_normal(10)
        share = np.maximum(counts, 1e-3) / np.maximum(counts, 1e-3).sum()
        psi_alarms += ((share - EVEN) * np.log(share / EVEN)).sum() > 0.25
        chi2_alarms += stats.chi2.sf(((counts - 10) ** 2 / 10).sum(), 9) < 0.01
    assert psi_alarms > 300
    assert chi2_alarms > 400
    assert rate_below(ORDERED, EVEN, 100, SIGMA[1.0], 0.01, runs=1000) <= upper(0.01, 1000)


def test_a_bin_nobody_used_before_is_possible():
    reference = NoisySum(np.r_[400.0, 200.0, np.zeros(8)], 600, 0.0)
    one_new = NoisySum(np.r_[133.0, 66.0, 1.0, np.zeros(7)], 200, 0.0)
    many_new = NoisySum(np.r_[100.0, 50.0, 50.0, np.zeros(7)], 200, 0.0)
    assert p_value(CATEGORIES, one_new, reference) > 0.05
    assert p_value(CATEGORIES, many_new, reference) < 1e-6


def test_negative_noise_does_not_break_the_covariance():
    covariance = unit_covariance(CATEGORIES, np.array([-50.0] * 9 + [60.0]), 20)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_two_bins_of_flags_have_one_degree_of_freedom():
    flags = uncounted("flag", 2, Bins.CATEGORIES, Source.FLAG)
    assert degrees_of_freedom(flags) == 1
    quiet, loud = NoisySum(np.array([950.0, 50.0]), 1000, 16.0), NoisySum(np.array([880.0, 120.0]), 1000, 16.0)
    assert p_value(flags, quiet, quiet) == pytest.approx(1.0)
    assert p_value(flags, loud, quiet) < 1e-6


def test_a_sum_over_nobody_cannot_be_tested():
    for size, variance in ((0, 1.0), (-1, 1.0), (5, -1.0), (float("nan"), 1.0), (5, float("nan"))):
        with pytest.raises(ConfigError):
            NoisySum(EVEN, size, variance)
