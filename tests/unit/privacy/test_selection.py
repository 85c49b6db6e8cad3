"""Private selection against exact laws: the best of a random number of draws of a small mechanism, integrated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from fedinfer.errors import ConfigError
from fedinfer.privacy import (
    GaussianEvent,
    NonPrivate,
    Repetitions,
    SkellamEvent,
    account,
    repetitions_of,
    selection_epsilon,
)
from fedinfer.privacy.accounting.events import InPart
from fedinfer.privacy.accounting.rdp import ORDERS, event_curve
from fedinfer.privacy.accounting.selection import selection_curve
from fedinfer.types import Relation

LAWS = [Repetitions(0.0, 0.05), Repetitions(1.0, 0.1), Repetitions(-0.5, 0.02), Repetitions(2.5, 0.3)]


def generating(law: Repetitions, x: np.ndarray) -> np.ndarray:
    """E[x^K], in closed form (not by the code under test)."""
    rest = 1 - (1 - law.gamma) * x
    if law.eta == 0:
        return np.log(rest) / math.log(law.gamma)
    return (rest**-law.eta - 1) / (law.gamma**-law.eta - 1)


def density_of_best(law: Repetitions, shift: float, z: float, at: np.ndarray) -> np.ndarray:
    """Of the largest of K results of a Gaussian mechanism whose score is its result."""
    below = stats.norm.cdf(at, shift, z)
    rest = 1 - (1 - law.gamma) * below
    if law.eta == 0:
        slope = -(1 - law.gamma) / rest / math.log(law.gamma)
    else:
        slope = law.eta * (1 - law.gamma) * rest ** (-law.eta - 1) / (law.gamma**-law.eta - 1)
    return slope * stats.norm.pdf(at, shift, z)


@pytest.mark.parametrize("law", LAWS)
def test_probabilities_are_those_of_the_generating_function(law: Repetitions) -> None:
    runs = np.arange(1, 4000)
    chances = np.array([law.probability(int(k)) for k in runs[:400]])
    for x in (0.2, 0.7):
        assert float((chances * x ** runs[:400]).sum()) == pytest.approx(float(generating(law, np.array(x))), abs=1e-9)
    step = 1e-6
    slope = (generating(law, np.array(1.0)) - generating(law, np.array(1 - step))) / step
    assert law.mean == pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize("law", LAWS)
def test_drawn_numbers_follow_the_law(law: Repetitions) -> None:
    rng = np.random.default_rng(3)
    drawn = np.array([law.draw(rng) for _ in range(20_000)])
    assert drawn.mean() == pytest.approx(law.mean, rel=0.08)
    for runs in (1, 2, 5):
        expected = law.probability(runs)
        assert (drawn == runs).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / 20_000))


@pytest.mark.parametrize("mean", [1.5, 10.0, 200.0])
@pytest.mark.parametrize("eta", [-0.5, 0.0, 1.0])
def test_the_law_with_a_wanted_mean(mean: float, eta: float) -> None:
    assert repetitions_of(mean, eta).mean == pytest.approx(mean)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("z", [1.0, 4.0])
def test_no_exact_divergence_of_the_best_exceeds_the_bound(law: Repetitions, z: float) -> None:
    bound = selection_curve(event_curve(GaussianEvent(z), Relation.ADD_REMOVE), law)
    at = np.linspace(-14 * z, 14 * z + 1, 40_001)
    one, other = density_of_best(law, 0.0, z, at), density_of_best(law, 1.0, z, at)
    assert integrate.simpson(one, x=at) == pytest.approx(1.0, abs=1e-6)
    for order in (2, 4, 16):
        for p, q in ((one, other), (other, one)):
            logs = order * np.log(np.maximum(p, 1e-300)) + (1 - order) * np.log(np.maximum(q, 1e-300))
            exact = math.log(integrate.simpson(np.exp(logs), x=at)) / (order - 1)
            assert exact <= bound[list(ORDERS).index(order)] * (1 + 1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_no_exact_delta_of_the_best_exceeds_the_claim(law: Repetitions) -> None:
    z, delta = 4.0, 1e-4
    epsilon = selection_epsilon([[GaussianEvent(z)]], law, delta, Relation.ADD_REMOVE)
    at = np.linspace(-14 * z, 14 * z + 1, 40_001)
    one, other = density_of_best(law, 0.0, z, at), density_of_best(law, 1.0, z, at)
    for p, q in ((one, other), (other, one)):
        assert integrate.simpson(np.maximum(p - math.exp(epsilon) * q, 0.0), x=at) <= delta
    # The epsilon of one run, which would be claimed without charging for the choice, is refuted.
    single = account([GaussianEvent(z)], delta, Relation.ADD_REMOVE).epsilon
    exact = [
        integrate.simpson(np.maximum(p - math.exp(single) * q, 0.0), x=at) for p, q in ((one, other), (other, one))
    ]
    assert max(exact) > 1.5 * delta


def test_one_run_costs_little_more_than_the_run() -> None:
    events = [GaussianEvent(2.0)]
    alone = selection_epsilon([events], Repetitions(0.0, 1 - 1e-9), 1e-5, Relation.ADD_REMOVE)
    assert 1.0 < alone / 2.0 < 1.6  # the theorem's bound needs the divergence at a second order, even for one run


def test_the_published_formula_by_hand() -> None:
    # Theorem 2 with eta 1, gamma 0.1, e(a) = a / 2: best b has 1/2 (b - 1) + log(10) / b, which is least at b = 2.
    curve = selection_curve(event_curve(GaussianEvent(1.0), Relation.ADD_REMOVE), Repetitions(1.0, 0.1))
    place = list(ORDERS).index(8)
    assert curve[place] == pytest.approx(4 + 2 * (0.5 * 1 + math.log(10) / 2) + math.log(10) / 7)


def test_the_worst_candidate_decides_and_no_bound_is_infinite() -> None:
    law = repetitions_of(10)
    both = selection_epsilon([[GaussianEvent(9.0)], [GaussianEvent(3.0)]], law, 1e-5, Relation.ADD_REMOVE)
    assert both == selection_epsilon([[GaussianEvent(3.0)]], law, 1e-5, Relation.ADD_REMOVE)
    assert math.isinf(selection_epsilon([[NonPrivate()]], law, 1e-5, Relation.ADD_REMOVE))
    assert math.isinf(selection_epsilon([[SkellamEvent(9.0, 1.0, 1.0)]], law, 1e-19, Relation.ADD_REMOVE))


@pytest.mark.parametrize(
    "call", [lambda: repetitions_of(1.0), lambda: Repetitions(-1.0, 0.5), lambda: Repetitions(0, 1)]
)
def test_laws_that_are_none_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]


def test_disjoint_parts_cost_the_worst_of_them() -> None:
    law, noise = repetitions_of(10), GaussianEvent(3.0)
    parts = [InPart("rows", "trained", noise), InPart("rows", "watched", GaussianEvent(9.0))]
    alone = selection_epsilon([[noise]], law, 1e-5, Relation.ADD_REMOVE)
    assert selection_epsilon([parts], law, 1e-5, Relation.ADD_REMOVE) == alone
    assert selection_epsilon([[noise, GaussianEvent(9.0)]], law, 1e-5, Relation.ADD_REMOVE) > alone
