"""Likelihood ratios find what there is to find, and no more than differential privacy allows."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedinfer.attack.membership import likelihood_ratios, most_found, roc
from fedinfer.errors import ConfigError

RNG = np.random.default_rng(11)
RUNS, UNITS = 40, 500


def _curve(gap: float, units: int = UNITS) -> tuple[float, float]:
    """Scores of units that differ from one another far more than by being in, as losses of easy and hard rows do."""
    included = RNG.random((RUNS, units)) < 0.5
    scores = 10 * RNG.standard_normal(units) + RNG.standard_normal((RUNS, units)) + gap * included
    curve = roc(likelihood_ratios(scores, included), included)
    return curve.area, curve.at(0.01)


def test_nothing_is_found_where_nothing_is() -> None:
    area, found = _curve(0.0)
    assert area == pytest.approx(0.5, abs=0.02)
    assert found == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0])
def test_the_attack_is_about_as_good_as_one_that_knows_both_laws(gap: float) -> None:
    """Two normal laws with variance 1: area Phi(gap / sqrt 2); leaving means to be learned costs a little."""
    area, found = _curve(gap)
    best = NormalDist().cdf(gap / math.sqrt(2))
    at_one_in_a_hundred = 1 - NormalDist().cdf(NormalDist().inv_cdf(0.99) - gap)
    assert best - 0.03 < area < best + 0.02
    assert 0.6 * at_one_in_a_hundred < found < at_one_in_a_hundred + 0.02


def test_a_run_does_not_teach_about_itself() -> None:
    """With a run's own score in the means, pure noise would be told apart."""
    included = RNG.random((10, 2000)) < 0.5
    curve = roc(likelihood_ratios(RNG.standard_normal((10, 2000)), included), included)
    assert curve.area == pytest.approx(0.5, abs=0.02)


def test_equal_scores_share_a_threshold() -> None:
    curve = roc(np.zeros((4, 4)), np.tile([True, False], (4, 2)))
    assert list(curve.false) == [0.0, 1.0]
    assert list(curve.true) == [0.0, 1.0]
    assert curve.area == 0.5


def test_what_privacy_allows_holds_for_a_mechanism_at_its_edge() -> None:
    """Randomized response with epsilon: the one test there is reaches the bound."""
    epsilon = 1.3
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert most_found(1 - truth, epsilon, 0.0) == pytest.approx(truth)
    assert most_found(0.01, 0.0, 1e-5) == pytest.approx(0.01001)
    assert most_found(0.3, math.inf, 0.0) == 1.0
    assert most_found(0.9, 1.0, 0.0) < 1.0


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        likelihood_ratios(np.zeros((4, 3)), np.ones((4, 3), np.bool_))
