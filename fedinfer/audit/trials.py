"""A Monte-Carlo audit of the mechanism itself: many runs of one coordinate, with and without one unit.

The noise, the rounding and the ring are the product's; the run is reduced to one coordinate, one unit that contributes
C in it whenever it is sampled, and nobody else's data. An attacker who sees all rounds guesses by the likelihood ratio
of the sampled Gaussian; how often it is right, with exact binomial intervals, bounds epsilon from below without a
model of anything (Nasr et al. 2023, section 4; Jagielski, Ullman and Oprea 2020, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedinfer.privacy import AuditBound

Floats = npt.NDArray[np.float64]
Release = Callable[[str, Floats], Floats]
"""Name of a draw and true sums (n,) over C -> what would be released of each, over C, float64 (n,)."""
Sampled = Callable[[str, int], Floats]
"""Name of a draw and a number n -> 1.0 where the unit is in the sample, else 0.0; (n,)."""

_THRESHOLDS = 200


@dataclass(frozen=True, slots=True)
class Trials:
    """What is tried.

    Args:
        count: runs of each kind, with and without the unit; half of them choose the test, half measure it.
        rounds: releases of a run, >= 1.
        rate: at which the unit is sampled, in (0, 1].
        noise: standard deviation that the plan promises, over C; the guess is made for it.
    """

    count: int
    rounds: int
    rate: float
    noise: float


def trial_bound(trials: Trials, release: Release, sampled: Sampled, delta: float, confidence: float) -> AuditBound:
    """A lower bound on epsilon from repeated runs.

    Args:
        trials: see there.
        release: the mechanism under audit.
        sampled: the sampling under audit.
        delta: of the claim.
        confidence: of the bound, in (0, 1).

    Returns:
        Method "trials"; `detail` holds the two error rates at the chosen threshold.
    """
    out, into = (_scores(trials, release, sampled, present=present) for present in (False, True))
    half = trials.count // 2
    test = _best_threshold(out[:half], into[:half], delta)
    epsilon, false, true = _bound_at(test, out[half:], into[half:], delta, confidence)
    return AuditBound(
        epsilon, delta, confidence, "trials", trials.count, {"false_positives": false, "true_positives": true}
    )


def _scores(trials: Trials, release: Release, sampled: Sampled, *, present: bool) -> Floats:
    """Log likelihood ratio of each run: sum of log(1 - q + q exp((2 x - 1) / (2 s^2))) over its releases x."""
    total, s2 = np.zeros(trials.count), trials.noise**2
    for number in range(trials.rounds):
        name = f"{'in' if present else 'out'} {number}"
        true = sampled(name, trials.count) if present else np.zeros(trials.count)
        gain = (2 * release(name, true) - 1) / (2 * s2)
        total += np.logaddexp(math.log1p(-trials.rate), math.log(trials.rate) + gain) if trials.rate < 1 else gain
    return total


@dataclass(frozen=True, slots=True)
class _Test:
    """Say "in" for scores above `threshold`, or, the other way about, "out" for those below it."""

    threshold: float
    upper: bool

    def rates(self, out: Floats, into: Floats) -> tuple[int, int]:
        """How often the null world and the other one fall into the region: (false, true) positives."""
        if self.upper:
            return int((out > self.threshold).sum()), int((into > self.threshold).sum())
        return int((into < self.threshold).sum()), int((out < self.threshold).sum())


def _best_threshold(out: Floats, into: Floats, delta: float) -> _Test:
    places = np.quantile(np.concatenate([out, into]), np.linspace(0.0, 1.0, _THRESHOLDS))
    tests = [_Test(float(place), upper) for place in places for upper in (True, False)]
    return max(tests, key=lambda test: _bound_at(test, out, into, delta, 0.95)[0])


def _bound_at(test: _Test, out: Floats, into: Floats, delta: float, confidence: float) -> tuple[float, float, float]:
    """log((true rate - delta) / false rate) with both rates at their worse ends (Clopper and Pearson 1934)."""
    false, true = test.rates(out, into)
    n, level = out.size, (1 - confidence) / 2
    most = float(stats.beta.isf(level, false + 1, n - false)) if false < n else 1.0
    least = float(stats.beta.ppf(level, true, n - true + 1)) if true else 0.0
    epsilon = math.log((least - delta) / most) if least > delta else 0.0
    return max(0.0, epsilon), false / n, true / n
