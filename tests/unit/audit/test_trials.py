"""Trials of a mechanism in one coordinate: bounds that hold for what is sound, and refute what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.audit.trials import Trials, trial_bound
from fedinfer.privacy import GaussianEvent, PoissonSampled, Repeated, account, relation_of
from fedinfer.types import Unit

DELTA = 1e-5


class Gaussian:
    """A mechanism with faults that can be asked for."""

    def __init__(self, noise: float, rate: float, seed: int = 1, *, sent: float = 1.0, reuse: bool = False) -> None:
        self._rng, self._noise, self._rate, self._sent = np.random.default_rng(seed), noise, rate, sent
        self._kept: np.ndarray | None = None
        self._reuse = reuse

    def release(self, _name: str, true: np.ndarray) -> np.ndarray:
        fresh = self._noise * self._rng.standard_normal(true.size)
        if self._reuse:
            if self._kept is None or self._kept.size != true.size:
                self._kept = fresh
            fresh = self._kept
        return self._sent * true + fresh

    def sampled(self, _name: str, count: int) -> np.ndarray:
        return (self._rng.random(count) < self._rate).astype(np.float64)


def _bound(noise: float, mechanism: Gaussian, rounds: int, rate: float, count: int = 20_000) -> float:
    trials = Trials(count, rounds, rate, noise)
    return trial_bound(trials, mechanism.release, mechanism.sampled, DELTA, 0.95).epsilon


def _claim(noise: float, rounds: int, rate: float) -> float:
    one = GaussianEvent(noise)
    event = one if rate == 1 else PoissonSampled(rate, one)
    return account([Repeated(event, rounds)], DELTA, relation_of(Unit.EXAMPLE)).epsilon


@pytest.mark.parametrize(("noise", "rounds", "rate"), [(1.0, 1, 1.0), (4.0, 10, 1.0), (0.8, 5, 0.2)])
def test_a_sound_mechanism_is_not_accused_and_the_bound_is_no_empty_statement(
    noise: float, rounds: int, rate: float
) -> None:
    claim = _claim(noise, rounds, rate)
    bounds = [_bound(noise, Gaussian(noise, rate, seed), rounds, rate) for seed in range(5)]
    assert max(bounds) <= claim
    assert max(bounds) > 0.3 * claim


def test_half_the_noise_a_double_contribution_and_a_fixed_sample_are_refuted() -> None:
    claim = _claim(1.0, 1, 1.0)
    assert _bound(1.0, Gaussian(0.5, 1.0), 1, 1.0) > claim, "half the noise"
    assert _bound(1.0, Gaussian(1.0, 1.0, sent=2.0), 1, 1.0) > claim, "counted twice"
    assert _bound(1.0, Gaussian(1.0, 1.0, sent=8.0), 1, 1.0) > claim, "not clipped"
    claim = _claim(2.0, 8, 0.1)
    assert _bound(2.0, Gaussian(0.25, 0.1), 8, 0.1) > claim, "an eighth of the noise, behind sampling"


def test_a_perfect_test_shows_no_more_than_the_runs_can() -> None:
    bound = _bound(1e-3, Gaussian(1e-9, 1.0), 1, 1.0, count=2000)
    assert bound < math.log(1000), "a thousand runs that are never wrong bound a rate by about 3.7 / 1000"
    assert bound > math.log(1000 / 5)
