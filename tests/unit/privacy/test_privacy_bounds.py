"""Every Rényi bound is held against the divergence computed term by term, in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from fedinfer.privacy.accounting.events import DiscreteGaussianEvent, GaussianEvent, PoissonSampled, SkellamEvent
from fedinfer.privacy.accounting.rdp import ORDERS, amplified, event_curve, noise_curve, to_epsilon
from fedinfer.types import Relation
from tests.unit.privacy.exact_divergences import log_discrete_gaussian_sum, log_skellam, mixed, renyi, shifted

FEW = np.arange(2, 25)
SHIFTS = [(1,), (2,), (5,), (1, 1), (3, 1), (2, 2, 1), (4, 0, 3), (1,) * 9]


def exact_curve(log_p: np.ndarray, shift: tuple[int, ...], orders: np.ndarray) -> np.ndarray:
    """Divergences add over independent coordinates."""
    return np.array([sum(renyi(*shifted(log_p, by), a) for by in shift) for a in orders])


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("variance", [0.5, 2.0, 10.0, 60.0])
def test_skellam_bound_holds_for_every_shift(variance: float, shift: tuple[int, ...]) -> None:
    log_p = log_skellam(variance, 40 * max(shift) + round(60 * math.sqrt(variance)) + 200)
    l2, l1 = math.sqrt(sum(v * v for v in shift)), float(sum(shift))
    bound = noise_curve(SkellamEvent(variance, l2, l1), FEW, 1.0)
    exact = exact_curve(log_p, shift, FEW)
    assert (exact <= bound * (1 + 1e-9)).all()


def test_skellam_bound_is_tight_for_large_variance() -> None:
    variance, shift = 4000.0, (6, 2)
    log_p = log_skellam(variance, 4000)
    bound = noise_curve(SkellamEvent(variance, math.sqrt(40), 8.0), FEW, 1.0)
    exact = exact_curve(log_p, shift, FEW)
    assert (exact <= bound).all()
    assert (bound / exact < 1.002).all()


@pytest.mark.parametrize("shift", SHIFTS[:6])
@pytest.mark.parametrize(("variance", "shares"), [(0.2, 2), (0.4, 3), (1.0, 4), (3.0, 3)])
def test_discrete_gaussian_sum_bound_holds(variance: float, shares: int, shift: tuple[int, ...]) -> None:
    log_p = log_discrete_gaussian_sum(variance, shares, 120)
    # Far out the truncated convolution is not the law any more: keep where it is.
    orders = np.arange(2, 9)
    log_p = log_p[40:-40]
    l2, l1 = math.sqrt(sum(v * v for v in shift)), float(sum(shift))
    bound = noise_curve(DiscreteGaussianEvent(variance, shares, l2, l1, len(shift)), orders, 1.0)
    exact = exact_curve(log_p, shift, orders)
    assert (exact <= bound * (1 + 1e-9)).all()


def test_one_discrete_gaussian_is_exactly_a_gaussian_in_renyi_terms() -> None:
    log_p = log_discrete_gaussian_sum(5.0, 1, 400)
    exact = exact_curve(log_p, (2,), FEW[:8])
    bound = noise_curve(DiscreteGaussianEvent(5.0, 1, 2.0, 2.0, 1), FEW[:8], 1.0)
    assert np.allclose(exact, bound, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shift", [1, 3])
def test_amplification_is_exact_forwards_and_covers_the_way_back(rate: float, shift: int) -> None:
    log_p = log_skellam(8.0, 600)
    p1, p0 = shifted(log_p, shift)
    every = np.arange(2, 25)
    curve = np.array([renyi(p1, p0, a) for a in every])
    result = amplified(curve, rate, every)
    mixture = mixed(p0, p1, rate)
    forwards = np.array([renyi(mixture, p0, a) for a in every])
    backwards = np.array([renyi(p0, mixture, a) for a in every])
    assert np.allclose(result, forwards, rtol=1e-6, atol=1e-12)
    assert (backwards <= result * (1 + 1e-9)).all()


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_amplification_holds_in_two_dimensions(rate: float) -> None:
    log_p = log_skellam(6.0, 90)
    n = log_p.size
    grid = log_p[:, None] + log_p[None, :]
    p1, p0 = grid[: n - 2, : n - 1], grid[2:, 1:]
    event = PoissonSampled(rate, SkellamEvent(6.0, math.sqrt(5), 3.0))
    bound = event_curve(event, Relation.ADD_REMOVE)
    mixture = mixed(p0, p1, rate)
    for a in range(2, 12):
        assert renyi(mixture.ravel(), p0.ravel(), a) <= bound[a - 2] * (1 + 1e-9)
        assert renyi(p0.ravel(), mixture.ravel(), a) <= bound[a - 2] * (1 + 1e-9)


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.7])
@pytest.mark.parametrize(("one", "other"), [(2, -2), (2, 2), (2, -1), (0, 2)])
def test_replace_one_under_sampling_holds(rate: float, one: int, other: int) -> None:
    """Neighbours: the unit's vector is `one` or `other`, both of norm at most 2."""
    variance, width = 10.0, 600
    log_p = log_skellam(variance, width)
    middle = log_p[4:-4]
    first = mixed(middle, log_p[4 - one : log_p.size - 4 - one], rate)
    second = mixed(middle, log_p[4 - other : log_p.size - 4 - other], rate)
    bound = event_curve(PoissonSampled(rate, SkellamEvent(variance, 2.0, 2.0)), Relation.REPLACE_ONE)
    for a in range(2, 20):
        assert renyi(first, second, a) <= bound[a - 2] * (1 + 1e-9) + 1e-12


def test_sampled_gaussian_matches_mironov_talwar_zhang() -> None:
    """Section 3.3 of the paper, integer orders, evaluated in exact rational-free high precision."""
    import mpmath

    with mpmath.workdps(50):
        for q, sigma, a in product((0.001, 0.1), (0.7, 2.0), (2, 5, 30)):
            terms = [
                mpmath.binomial(a, k)
                * mpmath.mpf(1 - q) ** (a - k)
                * mpmath.mpf(q) ** k
                * mpmath.exp(mpmath.mpf(k * k - k) / (2 * sigma**2))
                for k in range(a + 1)
            ]
            expected = float(mpmath.log(mpmath.fsum(terms)) / (a - 1))
            curve = event_curve(PoissonSampled(q, GaussianEvent(sigma)), Relation.ADD_REMOVE)
            assert curve[a - 2] == pytest.approx(expected, rel=1e-6)
            assert curve[a - 2] >= expected * (1 - 1e-9)


def test_sampling_never_costs_more_than_no_sampling() -> None:
    for rate, noise in product((1e-6, 0.01, 0.999), (GaussianEvent(0.5), SkellamEvent(50.0, 20.0, 60.0))):
        plain = event_curve(noise, Relation.ADD_REMOVE)
        sampled = event_curve(PoissonSampled(rate, noise), Relation.ADD_REMOVE)
        assert (sampled <= plain).all()
        assert (sampled >= 0).all()


def test_replace_one_doubles_both_norms() -> None:
    for event in (GaussianEvent(3.0), SkellamEvent(1e4, 30.0, 100.0), DiscreteGaussianEvent(50.0, 9, 30.0, 100.0, 16)):
        assert np.array_equal(event_curve(event, Relation.REPLACE_ONE), noise_curve(event, ORDERS, 2.0))
    gaussian = event_curve(GaussianEvent(3.0), Relation.ADD_REMOVE)
    assert np.allclose(event_curve(GaussianEvent(3.0), Relation.REPLACE_ONE), 4 * gaussian)
    assert np.array_equal(event_curve(GaussianEvent(3.0), Relation.ZERO_OUT), gaussian)


def test_conversion_covers_the_exact_profile_of_a_gaussian() -> None:
    """Canonne, Kamath and Steinke 2020, Proposition 12, must never give less than the truth."""
    from scipy.stats import norm

    for z, delta in product((0.3, 1.0, 4.0, 30.0), (1e-3, 1e-5, 1e-9)):
        epsilon = to_epsilon(ORDERS / (2 * z * z), delta)
        exact = norm.cdf(1 / (2 * z) - epsilon * z) - math.exp(epsilon) * norm.cdf(-1 / (2 * z) - epsilon * z)
        assert exact <= delta
    assert to_epsilon(ORDERS / (2 * 1.0), 1e-5) == pytest.approx(4.75, abs=0.01)


@pytest.mark.parametrize("place", [0, 60, -1])
def test_a_bound_that_is_not_a_number_proves_nothing(place: int) -> None:
    curve = ORDERS / 2.0
    curve[place] = math.nan
    assert to_epsilon(curve, 1e-5) == math.inf


def test_discrete_gaussian_gap_counts_every_share() -> None:
    from fedinfer.privacy.accounting.rdp import discrete_gaussian_gap

    by_hand = 10 * sum(math.exp(-2 * math.pi**2 * 0.3 * k / (k + 1)) for k in range(1, 20_000))
    assert discrete_gaussian_gap(0.3, 20_000) >= by_hand
    assert discrete_gaussian_gap(0.3, 20_000) == pytest.approx(by_hand, rel=1e-3)
    assert discrete_gaussian_gap(0.3, 1) == 0
