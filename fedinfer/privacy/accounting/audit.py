"""Empirical lower bounds on epsilon, to stand beside the claimed one: pure functions from scores.

* `one_run_bound`: one training run, many canaries, each in or out by a fair coin (Steinke, Nasr and Jagielski 2023).
* `canary_device_bound`: canary devices with random updates, cosine with the release (Andrew et al. 2023).

An audit finds bugs; it proves nothing. A bound above the claim, beyond its confidence, is a broken claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.types import Json

Scores = npt.NDArray[np.float64]

_MAX_EPSILON = 30.0
"""No number of canaries that fits a computer refutes more."""


class AuditMethod(StrEnum):
    """How canaries become a bound."""

    ONE_RUN = "one-run"
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class AuditBound:
    """A lower bound on epsilon.

    Args:
        epsilon: the claim is broken when it is below this.
        delta: at which the bound holds.
        confidence: probability, over the canaries, that the bound is not above the truth.
        method: "one-run" or "canary-device".
        canaries: how many were used.
        detail: figures behind the bound, for the report.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    canaries: int
    detail: Json

    def to_json(self) -> Json:
        """All fields."""
        return {
            "epsilon_lower_bound": self.epsilon,
            "delta": self.delta,
            "confidence": self.confidence,
            "method": self.method,
            "canaries": self.canaries,
            "detail": self.detail,
        }


def one_run_bound(
    scores: Scores, included: npt.NDArray[np.bool_], delta: float, confidence: float, guesses: int
) -> AuditBound:
    """Lower bound from one run (Steinke, Nasr and Jagielski 2023, Theorem 5.2 and Algorithm 1).

    The auditor says "in" for the `guesses` / 2 highest scores and "out" for as many lowest.

    Args:
        scores: (m,), larger means more likely in. Computed from the run's releases alone.
        included: (m,) which canaries were in; each by its own fair coin.
        delta: of the claim.
        confidence: for instance 0.95.
        guesses: how many canaries are guessed, even, at most m. Fixed before looking at the scores.

    Raises:
        ConfigError: shapes or numbers do not fit.
    """
    m = scores.size
    _check(delta, confidence)
    if included.shape != scores.shape or not 2 <= guesses <= m or guesses % 2:
        raise ConfigError(f"{m} scores, {included.size} coins, {guesses} guesses: guesses must be even, at most scores")
    order = np.argsort(scores, kind="stable")
    out, into = order[: guesses // 2], order[m - guesses // 2 :]
    correct = int((~included[out]).sum() + included[into].sum())
    epsilon = _largest_refuted(lambda e: one_run_p_value(m, guesses, correct, e, delta), 1 - confidence)
    return AuditBound(epsilon, delta, confidence, "one-run", m, {"guesses": guesses, "correct": correct})


def one_run_p_value(m: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Probability of at least `correct` right guesses if the run were (epsilon, delta)-DP.

    P(Binomial(r, e^eps / (1 + e^eps)) >= v) + 2 m delta max_i P(v > Binomial >= v - i) / i
    (Steinke, Nasr and Jagielski 2023, Theorem 5.2 and appendix D).

    Args:
        m: canaries.
        guesses: r, how many were guessed, 1..m.
        correct: v, how many guesses were right, 0..r.
        epsilon: the claim under test, >= 0.
        delta: of the claim, in [0, 1).

    Returns:
        An upper bound on the probability, in [0, 1].
    """
    chance = min(1 / (1 + math.exp(-epsilon)), 1 - 2.0**-53)
    pmf = _binomial_pmf(guesses, chance)
    beta = float(pmf[correct:].sum())
    below = np.cumsum(pmf[:correct][::-1])  # P(v > X >= v - i) for i = 1..v
    alpha = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, beta + 2 * m * delta * alpha)


def canary_device_bound(cosines: Scores, dimension: int, delta: float, confidence: float) -> AuditBound:
    """Lower bound from canary devices (Andrew et al. 2023, Algorithm 2), with confidence intervals added.

    A canary sends a random unit vector times the clipping norm. Had it not taken part, its cosine with the release
    would be N(0, 1/d). The cosines of those that did are fitted by a normal law; its mean is taken at the lower end of
    a one-sided interval and its deviation wherever in a two-sided one it shows least. Epsilon is the largest that
    some threshold test between the two normal laws refutes at `delta`. The bound is as good as the normal model.

    Args:
        cosines: (k,) cosine of each canary's vector with the release, k >= 10.
        dimension: d of the vectors.
        delta: of the claim.
        confidence: for instance 0.95; split over the two intervals.

    Raises:
        ConfigError: fewer than 10 canaries, or numbers out of range.
    """
    k = cosines.size
    _check(delta, confidence)
    if k < 10 or dimension < 2:
        raise ConfigError(f"{k} canaries in {dimension} dimensions: at least 10 in 2 are needed")
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2)
    deviation = float(cosines.std(ddof=1))
    mean = float(cosines.mean()) - z * deviation / math.sqrt(k) * (1 + 2 / k)
    # Wilson and Hilferty 1931: a chi-square quantile is about the cube of a normal one. The half of the error that is
    # left for the deviation is split over its two ends.
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 4)
    wide, narrow = (
        deviation / max(1 - 2 / (9 * (k - 1)) + side * z * math.sqrt(2 / (9 * (k - 1))), 0.05) ** 1.5
        for side in (-1, 1)
    )
    spreads = np.linspace(narrow, wide, 9)
    epsilon = min(_epsilon_between(mean, float(spread), 1 / math.sqrt(dimension), delta) for spread in spreads)
    detail = {"mean": float(cosines.mean()), "std": deviation, "null_std": 1 / math.sqrt(dimension)}
    return AuditBound(epsilon, delta, confidence, "canary-device", k, detail)


def _epsilon_between(mean: float, spread: float, null_spread: float, delta: float) -> float:
    """Max over thresholds t of log((P(in > t) - delta) / P(out > t)), and the same for the lower tails."""
    if mean <= 0:
        return 0.0
    into, out = NormalDist(mean, spread), NormalDist(0.0, null_spread)
    best = 0.0
    for t in np.linspace(-8 * null_spread, mean + 8 * spread, 4001):
        above_in, above_out = into.cdf(2 * mean - t), out.cdf(-t)  # upper tails by symmetry: no cancellation
        below_in, below_out = into.cdf(t), out.cdf(t)
        if above_in > delta and above_out > 0:
            best = max(best, math.log((above_in - delta) / above_out))
        if below_out > delta and below_in > 0:
            best = max(best, math.log((below_out - delta) / below_in))
    return best


def _binomial_pmf(n: int, p: float) -> Scores:
    k = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    choose = logs[n] - logs[k] - logs[n - k]
    result: Scores = np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))
    return result


def _largest_refuted(p_value: Callable[[float], float], level: float) -> float:
    """Largest epsilon whose p-value is at most `level`, to 1e-6 from below; p-values grow with epsilon."""
    if p_value(0.0) > level:
        return 0.0
    low, high = 0.0, 1.0
    while high < _MAX_EPSILON and p_value(high) <= level:
        low, high = high, high * 2
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= level else (low, middle)
    return low


def _check(delta: float, confidence: float) -> None:
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ConfigError(f"delta {delta} must be in [0, 1), confidence {confidence} in (0, 1)")
