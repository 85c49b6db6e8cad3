"""Tests of what an auditor can see directly because all vectors are known: noise, its freshness, sampling, clipping.

Canaries measure what an attacker gains, and that takes a large fault to see. Whoever owns a simulation can do better:
the true sum is known, so what is left of a release is its noise, coordinate by coordinate, and classical tests find a
small loss. Each function is pure and returns a `Check`, with the smallest fault that it finds with probability
`POWER`.

The null hypothesis is always that the mechanism is what the plan says. Noise is tested as Gaussian of the promised
variance: sums of Skellam or discrete Gaussian shares, rotated back, differ from it by less than the tests resolve
(their excess kurtosis is 1 / variance in integer units), and rounding only adds variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from fedinfer.types import Json

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

POWER = 0.9
"""Probability with which the fault named in `least` is found."""


@dataclass(frozen=True, slots=True)
class Check:
    """One test of the audit.

    Args:
        name: short, unique in a report.
        what: what is compared with what, for people.
        p_value: chance of evidence at least so strong under the plan, in [0, 1]; 0 or 1 where nothing is random.
        level: the fault is said to be found at p_value <= level.
        seen: what was measured, in words with figures.
        least: smallest fault that is found with probability `POWER`, in words with figures.
        figures: the numbers behind the words.
    """

    name: str
    what: str
    p_value: float
    level: float
    seen: str
    least: str
    figures: Json

    @property
    def failed(self) -> bool:
        """The plan is refuted."""
        return self.p_value <= self.level

    def to_json(self) -> Json:
        """All fields, and the verdict."""
        return {
            "name": self.name,
            "what": self.what,
            "p_value": self.p_value,
            "level": self.level,
            "seen": self.seen,
            "least": self.least,
            "failed": self.failed,
            **self.figures,
        }


def noise_check(name: str, what: str, residuals: Floats, level: float) -> Check:
    """Whether the noise has at least the promised variance: chi-square test on its energy, lower tail.

    Args:
        name: of the check.
        what: whose noise.
        residuals: (n,) or (rounds, d): release minus true value, over the promised standard deviation. Not empty.
        level: in (0, 1).

    Returns:
        `figures`: `noise_ratio`, measured over promised standard deviation, and `least_ratio`: noise of less than that
        part of the promise is found with probability `POWER`.
    """
    count, energy = residuals.size, float((residuals**2).sum())
    law = stats.chi2(count)
    ratio, least = math.sqrt(energy / count), math.sqrt(float(law.ppf(level) / law.ppf(POWER)))
    return Check(
        name,
        what,
        float(law.cdf(energy)),
        level,
        f"{ratio:.3f} of the promise",
        f"below {least:.2f}",
        {"noise_ratio": ratio, "least_ratio": least, "coordinates": count},
    )


def excess_check(name: str, what: str, residuals: Floats, level: float) -> Check:
    """Whether anything but the promised noise is in a release: the same test, upper tail.

    A vector that was not clipped shows here, since what is subtracted is clipped by the auditor.

    Args:
        name: of the check.
        what: which releases.
        residuals: as in `noise_check`, over the largest standard deviation that noise and rounding may have.
        level: in (0, 1).
    """
    count, energy = residuals.size, float((residuals**2).sum())
    law = stats.chi2(count)
    ratio = math.sqrt(energy / count)
    # Power of the upper tail for an added constant vector: non-central chi-square, solved for its squared length.
    bar = float(law.isf(level))
    length = math.sqrt(_root(lambda squared: float(stats.ncx2.sf(bar, count, squared)) - POWER, bar))
    return Check(
        name,
        what,
        float(law.sf(energy)),
        level,
        f"{ratio:.3f} of noise and rounding",
        f"{length:.0f} deviations more",
        {"excess_ratio": ratio, "least_length": length, "coordinates": count},
    )


def fresh_noise_check(name: str, what: str, residuals: Floats, level: float) -> Check:
    """Whether the noise of rounds is independent: every pair of rounds, and all of them together.

    Rounds of independent Gaussian noise have a cosine whose square is Beta(1/2, (d - 1) / 2) distributed; the largest
    of all pairs is tested by Bonferroni. The squared length of the sum of R rounds, over R times the energy of all of
    them, is Beta(d / 2, (R - 1) d / 2), whatever the variance is: it grows when rounds share noise, however little each
    pair shows, and shrinks when they cancel one another. Half the level each.

    Args:
        name: of the check.
        what: whose noise.
        residuals: (rounds >= 2, d >= 2) in any unit: how large the noise is does not count here. Whitened where noise
            is correlated by plan.
        level: in (0, 1).

    Returns:
        `figures`: `largest_cosine`, `common`: mean squared sum over its expectation, `least_shared`: part of the noise
        (correlation) that all rounds must share to be found with probability `POWER`.
    """
    rounds, d = residuals.shape
    unit = residuals / np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-300)
    cosines = (unit @ unit.T)[np.triu_indices(rounds, 1)]
    largest = float(np.abs(cosines).max())
    pairs = min(1.0, cosines.size * float(stats.beta.sf(min(largest**2, 1.0), 0.5, (d - 1) / 2)))
    energy = max(float((residuals**2).sum()), 1e-300)
    together, law = float((residuals.sum(axis=0) ** 2).sum()) / rounds / energy, stats.beta(d / 2, (rounds - 1) * d / 2)
    ends = min(1.0, 2 * min(float(law.cdf(together)), float(law.sf(together))))
    # With correlation r the common part is 1 + (R - 1) r times as large, the rest 1 - r.
    bar, usual = float(law.isf(level / 4)), float(law.ppf(1 - POWER))
    grown = bar * (1 - usual) / (usual * (1 - bar))
    least = max(0.0, (grown - 1) / (grown + rounds - 1))
    return Check(
        name,
        what,
        min(1.0, 2 * min(pairs, ends)),
        level,
        f"cosine {largest:.2f}, sum {math.sqrt(together * rounds):.2f}",
        f"a pair, or {least:.0%} in all",
        {"largest_cosine": largest, "common": together * rounds, "least_shared": least, "releases": rounds},
    )


def fresh_sample_check(name: str, what: str, counts: Counts, trials: int, rate: float, level: float) -> Check:
    """Whether a row is sampled independently in each of several trials, at the stated rate.

    Under Poisson sampling a row is in `trials` samples Binomial(trials, rate) times. The number of coincidences, the
    sum of c (c - 1) / 2 over rows, grows when the same rows come again; its law is computed exactly (the convolution
    of the rows' laws), and so is that of the sum of all counts. A third of the level for coincidences, two for the two
    tails of the sum.

    Args:
        name: of the check.
        what: which trials.
        counts: (rows,) how often each was sampled, 0..trials.
        trials: number of samples, >= 2.
        rate: stated probability, in (0, 1).
        level: in (0, 1).

    Returns:
        `figures`: `coincidences`, `expected_coincidences`, `sampled`, `expected_sampled`.
    """
    rows = counts.size
    k = np.arange(trials + 1)
    one = stats.binom.pmf(k, trials, rate)
    coincidences, expected = int((counts * (counts - 1) // 2).sum()), rows * math.comb(trials, 2) * rate**2
    tail = _coincidence_tail(one, rows, coincidences)
    total = stats.binom(rows * trials, rate)
    sampled = int(counts.sum())
    p = min(1.0, 3 * tail, 3 * float(total.cdf(sampled)), 3 * float(total.sf(sampled - 1)))
    again = rate * (rows * math.comb(trials, 2))  # if it were the same rows each time
    return Check(
        name,
        what,
        p,
        level,
        f"{coincidences} again, {expected:.0f} expected",
        f"{again:.0f} again",
        {
            "coincidences": coincidences,
            "expected_coincidences": expected,
            "sampled": sampled,
            "expected_sampled": float(total.mean()),
        },
    )


def clipping_check(name: str, what: str, lengths: Floats, norm: float, slack: float, level: float) -> Check:
    """Whether what one unit contributes is as long as it may be at most. Nothing is random here.

    Args:
        name: of the check.
        what: which contributions.
        lengths: (n,) L2 norms of contributions whose length before clipping was above the norm; not empty.
        norm: the clipping norm.
        slack: relative excess that rounding explains.
        level: only repeated in the result.
    """
    longest = float(lengths.max()) / norm
    return Check(
        name,
        what,
        0.0 if longest > 1 + slack else 1.0,
        level,
        f"{longest:.6f} of the norm",
        f"above {1 + slack:g}",
        {"longest": longest, "rows": int(lengths.size)},
    )


def ledger_check(releases: int, wrong: tuple[str, ...], level: float) -> Check:
    """Whether every release is in every ledger that it concerns, with its price, before and after. Nothing is random.

    Args:
        releases: how many there were.
        wrong: owner and release of each entry that is missing, unfinished, or names another event.
        level: only repeated in the result.
    """
    first = f": {', '.join(wrong[:3])}" if wrong else ""
    return Check(
        "ledgers",
        "entries of the server and of every device that stayed, beside what the plans promise",
        0.0 if wrong else 1.0,
        level,
        f"{len(wrong)} wrong entries{first}",
        "one wrong entry",
        {"releases": releases, "wrong": len(wrong)},
    )


def _coincidence_tail(one: Floats, rows: int, seen: int) -> float:
    """P(sum over rows of c (c - 1) / 2 >= seen), c from the law `one`; rows are convolved by repeated squaring."""
    counts = np.arange(one.size)
    law = np.zeros(int(counts[-1] * (counts[-1] - 1) // 2) + 1)
    np.add.at(law, counts * (counts - 1) // 2, one)
    # No value at or above `seen` need be told apart: they are gathered in the last place.
    result, power, left = np.array([1.0]), _gathered(law, seen), rows
    while left:
        if left & 1:
            result = _gathered(np.convolve(result, power), seen)
        power, left = _gathered(np.convolve(power, power), seen), left >> 1
    return float(result[seen]) if result.size > seen else 0.0


def _gathered(law: Floats, last: int) -> Floats:
    if law.size <= last + 1:
        return law
    cut = law[: last + 1].copy()
    cut[last] += law[last + 1 :].sum()
    return cut


def _root(function: Callable[[float], float], high: float) -> float:
    """Where an increasing function of a positive number is zero."""
    while function(high) < 0:
        high *= 2
    return float(optimize.brentq(function, 0.0, high))
