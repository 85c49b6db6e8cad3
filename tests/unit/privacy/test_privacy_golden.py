"""Published epsilons, each with the conversion that reproduces it; the accountants against each other."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import SAMPLER_DISTANCE, account, rdp_epsilon
from fedinfer.privacy.accounting.calibration import gaussian_events
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
)
from fedinfer.privacy.accounting.rdp import ORDERS, event_curve, to_epsilon
from fedinfer.types import Relation
from tests.unit.privacy.gaussians import gaussian_epsilon

AR, ZO, R1 = Relation.ADD_REMOVE, Relation.ZERO_OUT, Relation.REPLACE_ONE

# (name, sampling rate, noise multiplier, steps, digits published, old conversion, RDP, PLD on a grid of 1e-4 and of
# 1e-3); delta is 1e-5. Every grid gives an upper bound, a finer one a lower one.
# Published: pytorch/opacus examples/mnist_README.md; ftramer/Handcrafted-DP README ("epsilon = 3").
PUBLISHED = [
    ("opacus mnist 0.7", 0.004, 0.7, 11_250, 6.86, 6.863, 6.113, 5.4312, 5.4349),
    ("opacus mnist 1.1", 0.004, 1.1, 15_000, 2.91, 2.905, 2.506, 2.2954, 2.305),
    ("opacus mnist 1.3", 0.004, 1.3, 3_750, 1.16, 1.160, 0.922, 0.8335, 0.839),
    ("tramer-boneh mnist", 512 / 60_000, 1.23, 4_688, 3.0, 2.996, 2.581, 2.3635, 2.366),
    ("tramer-boneh fmnist", 2_048 / 60_000, 2.15, 1_172, 3.0, 3.020, 2.606, 2.3894, 2.390),
    ("tramer-boneh cifar10", 1_024 / 50_000, 1.54, 1_465, 3.0, 3.032, 2.609, 2.3871, 2.388),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_settings(row: tuple[str, float, float, int, float, float, float, float, float]) -> None:
    _, q, z, steps, published, old, rdp, fine, coarse = row
    curve = steps * event_curve(PoissonSampled(q, GaussianEvent(z)), AR)
    old_conversion = float((curve + math.log(1e5) / (ORDERS - 1)).min())  # Mironov 2017, Proposition 3
    assert old_conversion == pytest.approx(published, rel=0.011)
    assert old_conversion == pytest.approx(old, abs=6e-4)
    assert to_epsilon(curve, 1e-5) == pytest.approx(rdp, abs=6e-4)
    spent = gaussian_epsilon(z, 1e-5, steps, q, AR)
    assert fine <= spent.epsilon <= coarse
    assert (spent.accountant, spent.sampling, spent.relation) == ("pld", "poisson", AR)


# The measured table of dp-accounting 0.6: PLD add/remove and (where it can) RDP.
MEASURED = [
    (0.01, 1.0, 10_000, 1e-5, 6.188),
    (0.01, 1.0, 1_000, 1e-5, 1.828),
    (0.1, 1.0, 200, 1e-5, 9.971),
    (0.05, 0.7, 100, 1e-5, 7.882),
    (1.0, 10.0, 100, 1e-5, 4.377),
    (0.001, 0.6, 5_000, 1e-6, 2.748),
]


@pytest.mark.parametrize(("q", "z", "steps", "delta", "expected"), MEASURED)
def test_pld_values(q: float, z: float, steps: int, delta: float, expected: float) -> None:
    assert gaussian_epsilon(z, delta, steps, q, AR).epsilon == pytest.approx(expected, abs=2e-3)


EVENTS = [
    GaussianEvent(0.4),
    GaussianEvent(3.0),
    Repeated(GaussianEvent(30.0), 500),
    PoissonSampled(0.3, GaussianEvent(0.8)),
    Repeated(PoissonSampled(0.01, GaussianEvent(1.0)), 1_000),
    Repeated(PoissonSampled(0.001, GaussianEvent(0.6)), 2_000),
    Composed((Repeated(GaussianEvent(20.0), 30), Repeated(PoissonSampled(0.05, GaussianEvent(2.0)), 100))),
]


def dp_accounting_pld(event: object, delta: float, relation: Relation) -> float:
    """The same events through dp-accounting's own accountant, untouched by this package."""
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    names = dpa.NeighboringRelation
    kind = names.REPLACE_ONE if relation is R1 else names.ADD_OR_REMOVE_ONE
    accountant = PLDAccountant(kind, value_discretization_interval=1e-3)

    def translate(part: object) -> dpa.DpEvent:
        if isinstance(part, GaussianEvent):
            return dpa.GaussianDpEvent(part.noise_multiplier)
        if isinstance(part, PoissonSampled):
            return dpa.PoissonSampledDpEvent(part.rate, translate(part.event))
        if isinstance(part, Repeated):
            return dpa.SelfComposedDpEvent(translate(part.event), part.count)
        assert isinstance(part, Composed)
        return dpa.ComposedDpEvent([translate(inner) for inner in part.events])

    return float(accountant.compose(translate(event)).get_epsilon(delta))


@pytest.mark.parametrize("relation", [AR, ZO, R1])
@pytest.mark.parametrize("event", EVENTS, ids=range(len(EVENTS)))
def test_rdp_is_never_below_pld(event: object, relation: Relation) -> None:
    """A Rényi bound below the exact value is the upstream replace-one bug (google/differential-privacy 378, PR 464)."""
    for delta in (1e-3, 1e-6):
        pld = dp_accounting_pld(event, delta, relation)
        assert rdp_epsilon([event], delta, relation) >= pld - 2e-3
        # ... and what is reported is never below it either, up to the step of the discretisation.
        assert account([event], delta, relation).epsilon >= pld - 2e-3


def test_the_upstream_trap_is_real_and_avoided() -> None:
    """dp-accounting's RDP accountant forgets that replace-one moves a sum by two clipping norms."""
    import dp_accounting as dpa
    from dp_accounting.rdp import RdpAccountant

    upstream = RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_ONE)
    upstream.compose(dpa.GaussianDpEvent(10.0), 100)
    ours = account([Repeated(GaussianEvent(10.0), 100)], 1e-5, R1)
    assert ours.epsilon == pytest.approx(9.997, abs=2e-3)
    assert rdp_epsilon([Repeated(GaussianEvent(10.0), 100)], 1e-5, R1) > 9.997
    halved = account([Repeated(GaussianEvent(5.0), 100)], 1e-5, AR)
    assert ours.epsilon == pytest.approx(halved.epsilon, rel=1e-9)
    # Either upstream still under-reports (0.6: 4.729) or it was mended; ours must not depend on which.
    assert upstream.get_epsilon(1e-5) == pytest.approx(4.73, abs=0.05) or upstream.get_epsilon(1e-5) >= 9.99


def test_opacus_accountants_agree_where_they_are_sound() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import create_accountant

        accountant = create_accountant("prv")
        accountant.history = [(1.0, 0.01, 1000)]
        prv = accountant.get_epsilon(1e-5)
        gdp = create_accountant("gdp")
        gdp.history = [(0.6, 0.001, 5000)]
        too_small = gdp.get_epsilon(1e-6)
    ours = gaussian_epsilon(1.0, 1e-5, 1000, 0.01, AR).epsilon
    assert ours == pytest.approx(prv, abs=0.02)
    assert too_small < 0.5 * gaussian_epsilon(0.6, 1e-6, 5000, 0.001, AR).epsilon  # why GDP is never offered


def test_unsampled_gaussian_is_exact_and_rounded_up() -> None:
    from scipy.stats import norm

    for z, delta in product((0.1, 1.0, 12.0, 300.0), (1e-2, 1e-5, 1e-10)):
        epsilon = account([GaussianEvent(z)], delta, AR).epsilon

        def profile(e: float, z: float = z) -> float:
            inside, outside = norm.logcdf(1 / (2 * z) - e * z), e + norm.logcdf(-1 / (2 * z) - e * z)
            return float(np.exp(inside) - np.exp(outside))

        assert profile(epsilon) <= delta * (1 + 1e-9)
        if epsilon > 0:
            assert profile(epsilon * (1 - 1e-3) - 1e-6) > delta


@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_integer_noise_converges_to_the_gaussian(rate: float) -> None:
    """Finer integers, same multiplier: epsilon falls towards the Gaussian's Rényi epsilon and never below it."""
    z, shares = 4.0, 10
    last = math.inf
    gaussian = Repeated(GaussianEvent(z) if rate == 1 else PoissonSampled(rate, GaussianEvent(z)), 50)
    limit = rdp_epsilon([gaussian], 1e-5, AR)
    for scale in (2.0, 8.0, 64.0, 1024.0):
        variance = (z * scale) ** 2
        for noise in (
            SkellamEvent(variance, scale, scale * 4),
            DiscreteGaussianEvent(variance / shares, shares, scale, scale * 4, 16),
        ):
            event = Repeated(noise if rate == 1 else PoissonSampled(rate, noise), 50)
            spent = account([event], 1e-5, AR)
            assert spent.accountant == "rdp"
            assert limit <= spent.epsilon * (1 + 1e-12)
        skellam = Repeated(SkellamEvent(variance, scale, scale * 4), 50)
        epsilon = account([skellam], 1e-5, AR).epsilon
        assert epsilon <= last
        last = epsilon
    assert account([event], 1e-5, AR).epsilon == pytest.approx(limit, rel=1e-4)


def test_non_private_release_is_infinite_whatever_else_ran() -> None:
    spent = account([GaussianEvent(5.0), NonPrivate()], 1e-5, AR)
    assert spent.epsilon == math.inf
    assert spent.accountant == "none"
    assert rdp_epsilon([NonPrivate()], 1e-5, AR) == math.inf


def test_nothing_costs_nothing() -> None:
    assert account([], 1e-5, AR).epsilon == 0
    assert account([Repeated(GaussianEvent(1.0), 0)], 1e-5, AR).accountant == "none"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_delta_must_be_a_probability(delta: float) -> None:
    with pytest.raises(ConfigError):
        account([GaussianEvent(1.0)], delta, AR)
    with pytest.raises(ConfigError):
        rdp_epsilon([GaussianEvent(1.0)], delta, AR)


def test_sampler_distance_is_added_to_delta() -> None:
    event = SkellamEvent(1e6, 1e3, 1e4)
    plain = to_epsilon(event_curve(event, AR), 1e-5)
    assert account([event], 1e-5, AR).epsilon >= plain
    # At a delta of the size of the distance itself nothing can be promised for integer noise.
    assert account([event], SAMPLER_DISTANCE, AR).epsilon == math.inf
    assert account([GaussianEvent(1.0)], SAMPLER_DISTANCE, AR).epsilon < math.inf
    # A huge epsilon multiplies the distance beyond any delta.
    assert account([SkellamEvent(100.0, 1e3, 1e4)], 1e-5, AR).epsilon == math.inf


def test_mixed_noise_composes_in_renyi_terms() -> None:
    mixed = [GaussianEvent(5.0), SkellamEvent(25e4, 100.0, 400.0)]
    spent = account(mixed, 1e-5, AR)
    assert spent.accountant == "rdp"
    assert spent.epsilon == pytest.approx(rdp_epsilon([Repeated(GaussianEvent(5.0), 2)], 1e-5, AR), rel=1e-3)
    assert spent.epsilon > account(mixed[:1], 1e-5, AR).epsilon


def test_a_spent_value_says_what_it_is() -> None:
    shown = account(gaussian_events(1.0, 10, 0.5), 1e-5, ZO).to_json()
    assert set(shown) == {"epsilon", "delta", "accountant", "relation", "sampling"}
    assert (shown["relation"], shown["sampling"]) == ("zero-out-one", "poisson")
