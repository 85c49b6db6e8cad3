"""Audits: they can fail a broken mechanism, and they pass a sound one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.audit import canary_device_bound, one_run_bound, one_run_p_value
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.system import simulation_rng
from fedinfer.types import Relation

DELTA = 1e-5


def scores_of_a_run(noise: float, m: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A sum in which canary i adds a unit vector of its own coordinate, when its coin says so."""
    rng = simulation_rng("one run", name)
    included = rng.random(m) < 0.5
    return included + rng.normal(0.0, noise, m) if noise else included.astype(float), included


def test_one_run_passes_sound_noise_and_still_sees_something() -> None:
    claim = account([GaussianEvent(1.0)], DELTA, Relation.ADD_REMOVE).epsilon
    bound = one_run_bound(*scores_of_a_run(1.0, 2000, "sound"), DELTA, 0.95, 200)
    assert 0.5 < bound.epsilon < claim


def test_one_run_fails_a_mechanism_without_noise() -> None:
    claim = account([GaussianEvent(1.0)], DELTA, Relation.ADD_REMOVE).epsilon
    bound = one_run_bound(*scores_of_a_run(0.0, 2000, "none"), DELTA, 0.95, 2000)
    assert bound.epsilon > claim + 1


def test_one_run_fails_a_mechanism_with_a_tenth_of_its_noise() -> None:
    claim = account([GaussianEvent(1.5)], DELTA, Relation.ADD_REMOVE).epsilon
    bound = one_run_bound(*scores_of_a_run(0.15, 1000, "weak"), DELTA, 0.95, 1000)
    assert bound.epsilon > claim


def test_one_run_is_rarely_wrong() -> None:
    """On randomised response, where the method is tight, at most 5 % of bounds may exceed the truth."""
    truth, m = 1.0, 400
    wrong = 0
    for trial in range(300):
        rng = simulation_rng("coverage", trial)
        included = rng.random(m) < 0.5
        reported = np.where(rng.random(m) < 1 / (1 + math.exp(-truth)), included, ~included)
        wrong += one_run_bound(reported + rng.random(m) / 2, included, 0.0, 0.95, m).epsilon > truth
    assert wrong <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)


@pytest.mark.parametrize(("m", "r", "v"), [(100, 40, 31), (1000, 1000, 700), (50, 50, 50), (60, 20, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_p_value_matches_the_papers_listing(m: int, r: int, v: int, epsilon: float, delta: float) -> None:
    """Appendix D of the paper, with scipy's binomial."""
    q = 1 / (1 + math.exp(-epsilon))
    beta, alpha, total = binom.sf(v - 1, r, q), 0.0, 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, q)
        alpha = max(alpha, total / i)
    expected = min(beta + alpha * delta * 2 * m, 1.0)
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_all_right_without_delta_has_a_closed_form() -> None:
    included = np.arange(40) % 2 == 0
    bound = one_run_bound(included.astype(float), included, 0.0, 0.95, 40)
    accuracy = 0.05 ** (1 / 40)
    assert bound.epsilon == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-4)


def test_guessing_at_random_shows_nothing() -> None:
    rng = simulation_rng("random guesses")
    bound = one_run_bound(rng.random(500), rng.random(500) < 0.5, DELTA, 0.95, 500)
    assert bound.epsilon < 0.3


def canary_cosines(noise_multiplier: float, k: int, dimension: int, name: str) -> np.ndarray:
    """k canary devices and 30 others in one sum with Gaussian noise; all vectors have norm 1."""
    rng = simulation_rng("canaries", name)
    canaries = rng.normal(size=(k, dimension))
    canaries /= np.linalg.norm(canaries, axis=1, keepdims=True)
    others = rng.normal(size=(30, dimension)) / math.sqrt(dimension)
    release = canaries.sum(axis=0) + others.sum(axis=0) + rng.normal(size=dimension) * noise_multiplier
    return canaries @ release / np.linalg.norm(release)


def test_canary_devices_pass_sound_noise() -> None:
    claim = account([GaussianEvent(1.0)], DELTA, Relation.ZERO_OUT).epsilon
    bound = canary_device_bound(canary_cosines(1.0, 40, 10_000, "sound"), 10_000, DELTA, 0.95)
    assert 0 < bound.epsilon < claim


def test_canary_devices_fail_a_mechanism_without_noise() -> None:
    claim = account([GaussianEvent(1.0)], DELTA, Relation.ZERO_OUT).epsilon
    bound = canary_device_bound(canary_cosines(0.0, 40, 10_000, "none"), 10_000, DELTA, 0.95)
    assert bound.epsilon > 5 * claim


def test_canary_devices_that_were_not_there_show_nothing() -> None:
    rng = simulation_rng("absent")
    shown = [canary_device_bound(rng.normal(size=50) / 100, 10_000, DELTA, 0.95).epsilon for _ in range(100)]
    assert sum(epsilon > 0.1 for epsilon in shown) <= 8


def test_what_an_audit_reports() -> None:
    shown = one_run_bound(*scores_of_a_run(1.0, 100, "json"), DELTA, 0.95, 50).to_json()
    assert set(shown) == {"epsilon_lower_bound", "delta", "confidence", "method", "canaries", "detail"}


@pytest.mark.parametrize(
    ("guesses", "delta", "confidence"),
    [(3, 0.0, 0.95), (0, 0.0, 0.95), (102, 0.0, 0.95), (10, -1.0, 0.95), (10, 0.0, 1.0)],
)
def test_senseless_audits_are_refused(guesses: int, delta: float, confidence: float) -> None:
    scores, included = scores_of_a_run(1.0, 100, "bad")
    with pytest.raises(ConfigError):
        one_run_bound(scores, included, delta, confidence, guesses)
    with pytest.raises(ConfigError):
        canary_device_bound(scores[:9], 100, 0.0, 0.95)
