"""Membership inference by likelihood ratios (Carlini et al. 2022, "... Attacks From First Principles").

Many runs, each with a random half of all units. For every unit the scores of the runs with it and of those without it
give two normal laws; the ratio of their densities at the score of one more run says whether the unit was in it. Means
are those of the other runs (leave one out), variances are pooled over units, as the paper does for few runs (section
VI-C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.types import Json

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LEAST_RUNS = 8
"""Of a unit's runs about half are with it, and one of them is the one that is guessed."""
RATES = (0.001, 0.01, 0.1)
"""False alarms at which an attack is judged: an average over all units hides whom it recognises without doubt."""
_POINTS = 200


@dataclass(frozen=True, slots=True)
class Roc:
    """How well an attack tells units that were in from those that were not.

    Args:
        false: (k,) share of absent units that are taken for present, rising.
        true: (k,) share of present ones that are found.
        guesses: number of (run, unit) pairs behind it.
    """

    false: Floats
    true: Floats
    guesses: int

    @property
    def area(self) -> float:
        """Under the curve; 0.5: guessing."""
        return float(np.trapezoid(self.true, self.false))

    def at(self, rate: float) -> float:
        """Share of present units that are found at a rate of false alarms.

        Args:
            rate: in [0, 1].
        """
        return float(np.interp(rate, self.false, self.true))

    def to_json(self) -> Json:
        """Area, the judged rates, and a curve of at most a few hundred points."""
        places = np.unique(np.concatenate([np.geomspace(1e-4, 1.0, _POINTS), np.linspace(0, 1, 51)]))
        return {
            "area": self.area,
            "guesses": self.guesses,
            "found": {f"{rate:g}": self.at(rate) for rate in RATES},
            "curve": [[float(place), self.at(float(place))] for place in places],
        }


def likelihood_ratios(scores: Floats, included: Flags) -> Floats:
    """Log likelihood ratio of "in" against "out" for every run and unit.

    Args:
        scores: (runs, units), any statistic of what was released.
        included: (runs, units) whether the unit was in.

    Returns:
        float64 (runs, units); 0 where a unit has fewer than two other runs of either kind.

    Raises:
        ConfigError: fewer than `LEAST_RUNS` runs.
    """
    if len(scores) < LEAST_RUNS:
        raise ConfigError(f"{len(scores)} runs: at least {LEAST_RUNS} are needed", hint="--runs 32")
    inside, outside = _law(scores, included), _law(scores, ~included)
    ratio = _log_density(scores, *inside) - _log_density(scores, *outside)
    result: Floats = np.where(np.isfinite(ratio), ratio, 0.0)
    return result


def roc(ratios: Floats, included: Flags) -> Roc:
    """The curve of all thresholds.

    Args:
        ratios: (runs, units), larger means more likely in.
        included: (runs, units).
    """
    order = np.argsort(-ratios, axis=None, kind="stable")
    values, truth = ratios.ravel()[order], included.ravel()[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # equal scores share one threshold
    true = np.cumsum(truth)[last] / max(int(truth.sum()), 1)
    false = np.cumsum(~truth)[last] / max(int((~truth).sum()), 1)
    return Roc(np.append(0.0, false), np.append(0.0, true), truth.size)


def most_found(rate: float, epsilon: float, delta: float) -> float:
    """What differential privacy allows any attack to find at a rate of false alarms (Kairouz, Oh and Viswanath 2015).

    min(e^eps rate + delta, 1 - e^-eps (1 - delta - rate)), at most 1.

    Args:
        rate: of false alarms, in [0, 1].
        epsilon: of the claim, >= 0.
        delta: of the claim.
    """
    if epsilon > 700:
        return 1.0
    return min(1.0, math.exp(epsilon) * rate + delta, 1 - math.exp(-epsilon) * (1 - delta - rate))


def _law(scores: Floats, chosen: Flags) -> tuple[Floats, float]:
    """Mean of the other chosen runs, (runs, units), NaN for fewer than two; pooled variance of one score."""
    counts, sums = chosen.sum(axis=0), np.where(chosen, scores, 0.0).sum(axis=0)
    others = counts[None, :] - chosen
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(others >= 2, (sums[None, :] - np.where(chosen, scores, 0.0)) / others, np.nan)
        centred = np.where(chosen, scores - sums / counts, 0.0)
    freedom = int(np.maximum(counts - 1, 0).sum())
    variance = float(np.nansum(centred**2)) / max(freedom, 1)
    return means, max(variance, 1e-12)


def _log_density(scores: Floats, means: Floats, variance: float) -> Floats:
    result: Floats = -((scores - means) ** 2) / (2 * variance) - 0.5 * math.log(variance)
    return result
