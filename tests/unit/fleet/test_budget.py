"""The accountant of virtual fleets: against closed forms, and against an adversary who chooses the sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedinfer.config.flat import FlatValue
from fedinfer.fleet import prepare_fleet, run_fleet
from tests.unit.fleet.fleets import run, scenario


def exact_epsilon(z: float, sums: int, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, for the m-fold composition: one Gaussian with multiplier z / sqrt(m)."""
    m = math.sqrt(sums) / z

    def excess(epsilon: float) -> float:
        inside = norm.cdf(m / 2 - epsilon / m) - math.exp(epsilon) * norm.cdf(-m / 2 - epsilon / m)
        return float(inside) - delta

    return float(brentq(excess, 0.0, 100.0))


@pytest.mark.parametrize("mode", ["synchronous", "buffered"])
def test_a_device_spends_by_its_own_sums_and_nothing_is_amplified(mode: str) -> None:
    record = run(scenario(fleet__clock__rounds=mode, fleet__clock__participations=3, training__rounds=12))
    z, delta = record["plan"]["noise_multiplier"], record["plan"]["delta"]
    assert record["privacy"]["planned_epsilon"] == pytest.approx(exact_epsilon(z, 3, delta), rel=1e-6)
    most = record["participation"]["most"]
    assert record["privacy"]["most_spent_epsilon"] == pytest.approx(exact_epsilon(z, most, delta), rel=1e-6)
    assert record["privacy"]["planned_epsilon"] <= 8


def test_noise_follows_participations_not_rounds() -> None:
    few = prepare_fleet(scenario(fleet__clock__participations=2, training__rounds=100)).budget
    short = prepare_fleet(scenario(training__rounds=2)).budget
    long = prepare_fleet(scenario(training__rounds=100)).budget
    assert few.noise_multiplier == short.noise_multiplier
    assert long.noise_multiplier > 3 * few.noise_multiplier


def test_shares_of_noise_count_on_the_honest_devices_of_the_least_sum() -> None:
    budget = prepare_fleet(scenario(privacy__trust="distributed")).budget
    assert budget.least == 36
    assert budget.mechanism.contributors <= 36 - 4
    assert budget.epsilon(budget.participations) <= 8


def loss_in_bad_order(z: float, cap: int, epsilon: float, runs: int) -> tuple[float, float]:
    """Privacy loss of a device whose sums an adversary chooses by what earlier sums said.

    It watches 40 sums, each of one coordinate in which the device weighs 1 at most, and puts the device into a sum only
    when the last one looked as if the device were in it; stale sums weigh less. Returned: the delta at `epsilon` that
    this reaches, E[max(0, 1 - e^(epsilon - loss))], and its standard error.
    """
    rng = np.random.default_rng(7)
    loss, taken, last = np.zeros(runs), np.zeros(runs, np.int64), np.ones(runs)
    for number in range(40):
        goes = (taken < cap) & ((last > 0.5) | (number >= 40 - cap))
        weight = np.where(goes, 1.0, 0.0)
        seen = weight + z * rng.standard_normal(runs)
        loss += weight * (2 * seen - weight) / (2 * z * z)
        taken, last = taken + goes, seen
    assert (taken == cap).all()
    reached = np.maximum(0.0, 1 - np.exp(epsilon - loss))
    return float(reached.mean()), float(reached.std() / math.sqrt(runs))


def test_no_adaptive_choice_of_sums_beats_the_cap_and_one_more_sum_does() -> None:
    given: dict[str, FlatValue] = {"privacy__epsilon": 1.0, "privacy__delta": 4e-4, "fleet__clock__participations": 4}
    budget = prepare_fleet(scenario(**given)).budget
    z = budget.noise_multiplier
    # At a delta that sampling can see: the exact profile of four sums there.
    epsilon = exact_epsilon(z, 4, 0.02)
    reached, error = loss_in_bad_order(z, 4, epsilon, 400_000)
    assert reached == pytest.approx(0.02, abs=4 * error)
    more, error = loss_in_bad_order(z, 5, epsilon, 400_000)
    assert more > 0.02 + 8 * error


def test_whoever_has_reached_the_cap_is_not_asked_again() -> None:
    found = prepare_fleet(
        scenario(fleet__clock__participations=1, fleet__clock__rounds="buffered", training__rounds=20)
    )
    run_fleet(found, None, lambda *_: None)
    counts = found.registry.participations
    assert counts.max() == 1
    assert counts.sum() == 20 * 20


def test_without_noise_epsilon_is_infinite() -> None:
    record = run(scenario(privacy__unit="none"))
    assert record["privacy"]["planned_epsilon"] == math.inf
    assert record["plan"]["noise_multiplier"] == 0.0
