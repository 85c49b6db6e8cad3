"""Epsilon of several units together, and of fewer shares than were counted on, against exact laws."""

from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
)
from fedinfer.privacy.accounting.group import group_epsilon, with_missing_shares
from fedinfer.types import Relation
from tests.reference import gaussian, skellam

ZO, DELTA = Relation.ZERO_OUT, 1e-5
HEART = Repeated(SkellamEvent(10.2**2 * 1e8, 1e4, 1e5), 20)
"""The training of the built-in scenario heart: 20 rounds, no sampling, noise multiplier 10.2."""


@pytest.mark.parametrize("units", [2, 3, 10])
@pytest.mark.parametrize("z", [5.0, 20.0])
def test_gaussian_noise_against_the_exact_profile(z: float, units: int) -> None:
    epsilon = group_epsilon([GaussianEvent(z)], DELTA, units)
    assert float(gaussian.profile(mpmath.mpf(epsilon), z / units)) == pytest.approx(DELTA, rel=1e-6)


@pytest.mark.parametrize(("z", "delta", "units"), [(100.0, 1e-2, 5), (1e4, 1e-4, 10), (10.0, 0.1, 10)])
def test_units_that_cost_nothing_one_by_one_cost_something_together(z: float, delta: float, units: int) -> None:
    """One unit is within (0, delta); k of them are within (0, k delta), which is not (0, delta)."""
    assert group_epsilon([GaussianEvent(z)], delta, 1) == 0
    epsilon = group_epsilon([GaussianEvent(z)], delta, units)
    assert float(gaussian.profile(mpmath.mpf(epsilon), z / units)) == pytest.approx(delta, rel=1e-6)


def test_what_an_independent_check_computed_for_heart() -> None:
    """Epsilon .885 for one row at delta 1e-5: 1.91, 5.43, 12.6 and 31.4 for 2, 5, 10 and 20 rows; k epsilon is less."""
    z = 4.17  # one release with the epsilon of all rounds, rounded as there
    one = group_epsilon([GaussianEvent(z)], DELTA, 1)
    assert one == pytest.approx(0.885, abs=0.001)
    for units, told in ((2, 1.91), (5, 5.43), (10, 12.6), (20, 31.4)):
        together = group_epsilon([GaussianEvent(z)], DELTA, units)
        assert together == pytest.approx(told, rel=0.02)
        assert together > units * one


def delta_of_a_sampled_group(epsilon: float, rate: float, z: float, units: int) -> float:
    """Exact for one release, the larger of both directions: the ratio of the laws rises with x (Neyman, Pearson)."""
    weights = [math.comb(units, j) * rate**j * (1 - rate) ** (units - j) for j in range(units + 1)]
    growth = math.exp(epsilon)

    def place(ratio: float) -> float:
        """x at which mixture / still is `ratio`; -inf where it is larger everywhere."""
        if ratio <= weights[0]:
            return -math.inf
        low, high = -60.0 * z, 60.0 * z
        for _ in range(200):
            middle = (low + high) / 2
            value = math.fsum(w * math.exp(j * (2 * middle - j) / (2 * z * z)) for j, w in enumerate(weights))
            low, high = (middle, high) if value < ratio else (low, middle)
        return high

    def below(x: float, mean: int) -> float:
        return float(mpmath.ncdf((x - mean) / z)) if math.isfinite(x) else 0.0

    up, down = place(growth), place(1 / growth)
    above = math.fsum(w * (1 - below(up, j)) for j, w in enumerate(weights)) - growth * (1 - below(up, 0))
    return max(above, below(down, 0) - growth * math.fsum(w * below(down, j) for j, w in enumerate(weights)))


@pytest.mark.parametrize(("rate", "z", "units"), [(0.1, 1.0, 2), (0.3, 2.0, 3)])
def test_sampled_gaussian_noise_against_integration(rate: float, z: float, units: int) -> None:
    epsilon = group_epsilon([PoissonSampled(rate, GaussianEvent(z))], 1e-3, units)
    assert delta_of_a_sampled_group(epsilon, rate, z, units) <= 1e-3 * 1.001
    assert delta_of_a_sampled_group(0.97 * epsilon, rate, z, units) > 1e-3, "and not much too large"


@pytest.mark.parametrize(("rate", "units"), [(0.2, 2), (0.5, 3), (1.0, 2)])
def test_integer_noise_against_its_exact_law(rate: float, units: int) -> None:
    """One coordinate, each of the units moves it by 4: the whole law is summed."""
    variance, step, reach = 60.0, 4, 160
    event = PoissonSampled(rate, SkellamEvent(variance, float(step), float(step)))
    epsilon = group_epsilon([event], 1e-4, units)
    with mpmath.workdps(30):
        law = {k: skellam.probability(k, variance) for k in range(-reach - units * step, reach + 1)}
        weights = [math.comb(units, j) * rate**j * (1 - rate) ** (units - j) for j in range(units + 1)]
        still = {k: law[k] for k in range(-reach, reach + 1)}
        mixed = {k: mpmath.fsum(w * law[k - j * step] for j, w in enumerate(weights)) for k in still}
        growth = mpmath.exp(epsilon)
        exact = max(
            mpmath.fsum(max(mixed[k] - growth * still[k], mpmath.mpf(0)) for k in still),
            mpmath.fsum(max(still[k] - growth * mixed[k], mpmath.mpf(0)) for k in still),
        )
    assert exact <= 1e-4


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(
        [
            HEART,
            Repeated(PoissonSampled(0.3, SkellamEvent(1e10, 1e4, 1e5)), 10),
            Composed((GaussianEvent(30.0), GaussianEvent(12.0))),
            DiscreteGaussianEvent(1e10, 4, 1e4, 1e5, 64),
        ]
    ),
    st.integers(1, 6),
)
def test_more_units_never_cost_less_and_one_costs_what_the_account_says(event: Repeated, units: int) -> None:
    assert group_epsilon([event], DELTA, 1) == account([event], DELTA, ZO).epsilon
    assert group_epsilon([event], DELTA, units) <= group_epsilon([event], DELTA, units + 1)


def test_what_cannot_be_bounded_is_infinite_and_what_makes_no_sense_is_refused() -> None:
    assert group_epsilon([NonPrivate()], DELTA, 2) == math.inf
    assert group_epsilon([], DELTA, 2) == 0.0
    for units in (0, 1001):
        with pytest.raises(ConfigError):
            group_epsilon([HEART], DELTA, units)


def test_a_missing_share_takes_its_part_of_the_variance() -> None:
    """Three shares counted on, one missing: as if the noise had two thirds of its variance."""
    fewer = with_missing_shares([HEART], 3, 1)
    expected = Repeated(SkellamEvent(10.2**2 * 1e8 * 2 / 3, 1e4, 1e5), 20)
    assert account(fewer, DELTA, ZO).epsilon == pytest.approx(account([expected], DELTA, ZO).epsilon, rel=1e-9)
    discrete = with_missing_shares([DiscreteGaussianEvent(100.0, 4, 1.0, 1.0, 8)], 4, 1)
    assert discrete == (DiscreteGaussianEvent(100.0, 3, 1.0, 1.0, 8),)
    sampled = with_missing_shares([PoissonSampled(0.5, SkellamEvent(90.0, 1.0, 1.0))], 3, 1)
    assert sampled == (PoissonSampled(0.5, SkellamEvent(60.0, 1.0, 1.0)),)


def test_without_any_share_nothing_is_private_and_noise_of_nobody_elses_share_stays() -> None:
    assert with_missing_shares([HEART], 2, 2)[0] == NonPrivate()
    assert with_missing_shares([PoissonSampled(0.5, SkellamEvent(90.0, 1.0, 1.0))], 2, 5)[0] == NonPrivate()
    assert with_missing_shares([GaussianEvent(3.0)], 2, 2) == (GaussianEvent(3.0),)
    assert with_missing_shares([HEART], 2, 0) == with_missing_shares([HEART], 2, 0)
    assert account(with_missing_shares([HEART], 2, 0), DELTA, ZO) == account([HEART], DELTA, ZO)
    with pytest.raises(ConfigError):
        with_missing_shares([HEART], 0, 0)
