"""Skellam noise as Gaussian noise: the bound on both laws against their definitions, epsilons against exact ones."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    from_json,
    to_json,
)
from fedinfer.privacy.accounting.skellam_as_gaussian import LEAST_VARIANCE, distance, exchange
from fedinfer.types import Relation
from tests.reference import gaussian
from tests.reference.exchange import rounded_gaussian, skellam_law

ZO, DELTA = Relation.ZERO_OUT, 1e-5


@pytest.mark.parametrize("variance", [LEAST_VARIANCE, 1e6])
def test_the_logarithm_of_both_laws_differs_by_no_more_than_is_claimed(variance: float) -> None:
    """On y = k / sqrt(mu) up to a tenth of sqrt(mu), as far as anything is used."""
    spread = math.sqrt(variance)
    reach = min(spread / 10, 14.0)
    law = skellam_law(variance, int(reach * spread))
    for k in {0, 1, *np.linspace(1, len(law) - 1, 80).astype(int).tolist()}:
        y = k / spread
        bound = (y**4 / 24 + 0.3 * y**2 + 0.3) / variance
        ratio = abs(float(mpmath.log(law[k] / rounded_gaussian(k, variance))))
        assert ratio <= bound
        assert ratio >= bound / 4 or y < 6, "and it is no bound on nothing"


@pytest.mark.parametrize("log_tau", [-5.0, -20.0])
@pytest.mark.parametrize("coordinates", [1, 2, 40])
def test_the_chance_of_a_bad_noise_vector_against_its_exact_law(coordinates: int, log_tau: float) -> None:
    """The law of the sum of log(S/R), by convolution with itself."""
    variance, step = LEAST_VARIANCE, 2.0**-19
    eta = distance([(variance, coordinates)], log_tau)
    s = skellam_law(variance, int(9 * math.sqrt(variance)))
    r = [rounded_gaussian(k, variance) for k in range(len(s))]
    losses = np.array([float(mpmath.log(first / second)) for first, second in zip(s, r, strict=True)])
    for law, sign in ((s, 1), (r, -1)):
        mass = np.array([float(p) for p in law]) * np.where(np.arange(len(law)) == 0, 1, 2)
        place = np.floor(sign * losses / step).astype(int)
        one = np.bincount(place - place.min(), weights=mass)
        size = coordinates * (len(one) - 1) + 1
        total = np.fft.irfft(np.fft.rfft(one, size) ** coordinates, size)  # errors near 1e-16, far below tau
        exceed = total[max(0, math.ceil(eta / step) - coordinates * int(place.min())) :].sum()
        assert exceed <= math.exp(log_tau)


def exact_epsilon(variance: float, shift: int, rate: float, rounds: int) -> float:
    """Epsilon of Skellam noise moved in one coordinate, from its law, composed by dp-accounting and rounded down."""
    reach = int(10 * math.sqrt(variance))
    law = [float(mpmath.log(p)) for p in skellam_law(variance, reach + shift)]
    still = {k: law[abs(k)] for k in range(-reach, reach + 1)}
    moved = {k: law[abs(k - shift)] for k in still}
    if rate < 1:
        moved = {k: float(np.logaddexp(math.log(rate) + p, math.log1p(-rate) + still[k])) for k, p in moved.items()}
    worst = 0.0
    for first, second in ((moved, still), (still, moved)):
        one = pld.from_two_probability_mass_functions(
            first, second, pessimistic_estimate=False, value_discretization_interval=2.0**-11
        )
        worst = max(worst, one.self_compose(rounds).get_epsilon_for_delta(DELTA))
    return worst


@pytest.mark.parametrize(("rate", "rounds", "shift"), [(1.0, 6, 30), (0.4, 10, 40)])
def test_epsilon_against_the_exact_law_of_one_coordinate(rate: float, rounds: int, shift: int) -> None:
    """One coordinate is one of the vectors that are covered: the claim may not be below; nor is it much above."""
    variance = LEAST_VARIANCE
    noise = SkellamEvent(variance, float(shift), float(shift), 1)
    event = PoissonSampled(rate, noise) if rate < 1 else noise
    claimed = account([Repeated(event, rounds)], DELTA, ZO)
    assert claimed.accountant == "pld"
    exact = exact_epsilon(variance, shift, rate, rounds)
    assert exact <= claimed.epsilon <= 1.03 * exact
    assert claimed.epsilon < rdp_epsilon([Repeated(event, rounds)], DELTA, ZO)


def test_what_an_independent_check_computed_for_heart() -> None:
    """z 9.375 instead of 10.2 would do for heart's plan: numeric accounting instead of Rényi bounds saves 8 %."""
    noise = SkellamEvent(5943644842.0, 7577.052807577703, 85724.56674634821, 128)
    rounds = Repeated(PoissonSampled(0.5, noise), 20)
    gaussian = Repeated(PoissonSampled(0.5, GaussianEvent(math.sqrt(noise.variance) / noise.l2)), 20)
    epsilon = account([rounds], DELTA, ZO).epsilon
    assert epsilon == pytest.approx(account([gaussian], DELTA, ZO).epsilon, rel=2e-3)
    assert epsilon < 0.92 * rdp_epsilon([rounds], DELTA, ZO)


def test_more_coordinates_and_less_variance_cost_more() -> None:
    def epsilon(variance: float, dimension: int) -> float:
        return account([SkellamEvent(variance, math.sqrt(variance) / 5, variance, dimension)], DELTA, ZO).epsilon

    assert epsilon(1e8, 10) <= epsilon(1e8, 10_000) <= epsilon(1e8, 10**7) <= epsilon(1e6, 10**7)
    assert distance([], -20.0) == 0.0
    assert distance([(1e6, 100)], -20.0) < distance([(1e6, 100), (1e6, 1)], -20.0) < distance([(1e6, 100)], -40.0)


def test_where_nothing_is_proved_the_renyi_bound_stays() -> None:
    unknown = SkellamEvent(1e8, 1e3, 1e4)
    coarse = SkellamEvent(LEAST_VARIANCE / 2, 20.0, 40.0, 8)
    discrete = DiscreteGaussianEvent(1e8, 4, 1e3, 1e4, 8)
    for event in (unknown, coarse, discrete):
        spent = account([event], DELTA, ZO)
        assert spent.accountant == "rdp"
        assert spent.epsilon == rdp_epsilon([event], DELTA, ZO)
        assert exchange([(event, 1)], -20.0) is None
    assert exchange([(SkellamEvent(LEAST_VARIANCE, 20.0, 40.0, 10**12), 1)], -700.0) is None
    mixed = account([SkellamEvent(1e8, 1e3, 1e4, 8), GaussianEvent(20.0)], DELTA, ZO)
    assert mixed.accountant == "pld"


def test_an_event_of_an_earlier_ledger_has_no_dimension_and_keeps_its_price() -> None:
    old = {"kind": "skellam", "variance": 1e8, "l2": 1e3, "l1": 1e4}
    event = from_json(old)
    assert event == SkellamEvent(1e8, 1e3, 1e4)
    assert account([event], DELTA, ZO).accountant == "rdp"
    assert from_json(to_json(SkellamEvent(1e8, 1e3, 1e4, 8))) == SkellamEvent(1e8, 1e3, 1e4, 8)


@pytest.mark.parametrize("units", [2, 4])
def test_a_group_is_charged_as_with_gaussian_noise(units: int) -> None:
    from fedinfer.privacy.accounting.group import group_epsilon

    noise = SkellamEvent(1e9, 4000.0, 40000.0, 128)
    gaussian = GaussianEvent(math.sqrt(1e9) / 4000.0)
    for event, like in ((noise, gaussian), (PoissonSampled(0.3, noise), PoissonSampled(0.3, gaussian))):
        together = group_epsilon([Repeated(event, 5)], DELTA, units)
        assert together == pytest.approx(group_epsilon([Repeated(like, 5)], DELTA, units), rel=5e-3)


@pytest.mark.parametrize("dimension", [10**9, 10**12, 10**15])
def test_a_vector_of_any_length_has_a_bound(dimension: int) -> None:
    """Where the distance is larger than the Rényi bound it is no use; it must not overflow either."""
    from fedinfer.privacy.accounting.group import group_epsilon

    for shift in (20.0, 300.0):
        event = SkellamEvent(LEAST_VARIANCE, shift, 40 * shift, dimension)
        assert account([event], DELTA, ZO).epsilon <= rdp_epsilon([event], DELTA, ZO)
        assert group_epsilon([event], DELTA, 3) >= account([event], DELTA, ZO).epsilon


@pytest.mark.parametrize(("variance", "dimension"), [(1e5, 200_000), (1e6, 10_000_000)])
def test_the_exchange_is_paid_for(variance: float, dimension: int) -> None:
    """Where it costs much: what is left of delta for Gaussian noise at epsilon - 2 eta, by its exact profile, suffices.

    exp(eta) delta_G(epsilon - 2 eta) + tau + exp(epsilon - eta) tau <= delta, with tau a thousandth of delta over e to
    the Rényi bound.
    """
    event = SkellamEvent(variance, math.sqrt(variance) / 4, variance, dimension)
    claimed, ceiling = account([event], DELTA, ZO), rdp_epsilon([event], DELTA, ZO)
    assert claimed.accountant == "pld"
    log_tau = math.log(DELTA) - ceiling - math.log(1000)
    eta, tau = distance([(variance, dimension)], log_tau), math.exp(log_tau)
    assert eta > 0.01, "or nothing is seen"
    with mpmath.workdps(30):
        left = float(gaussian.profile(mpmath.mpf(claimed.epsilon - 2 * eta), 4.0))
    spent = math.exp(eta) * left + tau + math.exp(claimed.epsilon - eta) * tau
    assert 0.9 * DELTA < spent <= DELTA


def test_every_coordinate_of_every_round_counts() -> None:
    for split in ([(1e6, 7)] * 3, [(1e6, 20), (1e6, 1)]):
        assert distance(split, -20.0) == pytest.approx(distance([(1e6, 21)], -20.0), rel=1e-12)
    rounds = exchange([(SkellamEvent(1e6, 300.0, 9e3, 50), 8)], -20.0)
    sampled = exchange([(PoissonSampled(0.5, SkellamEvent(1e6, 300.0, 9e3, 50)), 8)], -20.0)
    once = exchange([(SkellamEvent(1e6, 300.0, 9e3, 400), 1)], -20.0)
    assert rounds is not None
    assert sampled is not None
    assert once is not None
    assert rounds.eta == sampled.eta == once.eta > exchange([(SkellamEvent(1e6, 300.0, 9e3, 50), 1)], -20.0).eta  # type: ignore[union-attr]  # it is there
