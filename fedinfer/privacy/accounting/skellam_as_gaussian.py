"""Skellam noise charged as Gaussian noise of the same variance, with a proved distance between the two.

Rényi bounds of Skellam noise are those of Gaussian noise up to terms that vanish with its variance mu, but what is lost
on the way back to (epsilon, delta), about 8 % of the noise, is not there for Gaussians: their profile is known exactly,
and their privacy-loss distributions compose. So the noise is exchanged:

1. Let R be the law of a Gaussian of variance mu rounded to an integer. Moving it by an integer vector v and rounding is
   rounding what was moved, so a mechanism with noise R is post-processing of the Gaussian mechanism: any number of
   coordinates, adaptive rounds, Poisson sampling and reduction to a ring cost what Gaussian noise costs.
2. Let S be Skellam noise of variance mu, N all coordinates of all rounds together, and call a noise vector bad when
   log(S/R) > eta, summed over the N coordinates. What is released is a function of the noise vector, also when later
   rounds depend on earlier releases, so P_S(E) <= exp(eta) P_R(E) + tau with tau the chance under S of a bad one, and
   the same the other way. Twice applied, an (epsilon, delta) of R gives S

       (epsilon + 2 eta, exp(eta) delta + tau + exp(epsilon + eta) tau).

3. `distance` bounds eta for a given tau. With y = k / sqrt(mu), for mu >= LEAST_VARIANCE and |y| <= K <= sqrt(mu)/10,

       |log S(k)/R(k)| <= B(y) / mu,  B(y) = y^4/24 + 0.3 y^2 + 0.3,

   proved in docs/privacy-accounting.md from the integral S(k) = exp(s - mu - k asinh(k/mu)) J, s^2 = k^2 + mu^2, with
   J = (1/2 pi) int exp(s (cos u - 1)) cos(k (sin u - u)) du over one turn. The rest is Chernoff's bound.

No step is an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.privacy.accounting.events import GaussianEvent, Plain, PoissonSampled, SkellamEvent

Orders: TypeAlias = npt.NDArray[np.float64]
"""Orders t of Chernoff's bound, or one value for each, shape (k,)."""

LEAST_VARIANCE = 1e4
"""Below this the bound on the logarithm is not proved, and integers are coarse enough to matter."""
_TRIES = np.logspace(-8, 0, 161)
"""Fractions of the largest order at which Chernoff's bound is tried; each one is valid."""


@dataclass(frozen=True, slots=True)
class Substitution:
    """A history with Gaussian noise in place of Skellam noise, and what the exchange costs.

    Args:
        history: pairs (event, count) without Skellam noise.
        eta: bound on the logarithm of the ratio of both laws, outside an event of probability tau.
    """

    history: tuple[tuple[Plain, int], ...]
    eta: float


def exchange(history: Sequence[tuple[Plain, int]], log_tau: float) -> Substitution | None:
    """Gaussian noise for Skellam noise.

    Args:
        history: pairs (event, count >= 1).
        log_tau: natural logarithm of the probability of the bad event, < 0.

    Returns:
        None when an event has noise of another law, does not say its dimension or has a variance below
        LEAST_VARIANCE, or no finite eta can be proved.
    """
    exchanged, sizes = [], []
    for event, count in history:
        noise = event.event if isinstance(event, PoissonSampled) else event
        if isinstance(noise, GaussianEvent):
            exchanged.append((event, count))
            continue
        if not isinstance(noise, SkellamEvent) or not noise.dimension or noise.variance < LEAST_VARIANCE:
            return None
        gaussian = GaussianEvent(math.sqrt(noise.variance) / noise.l2)
        is_sampled = isinstance(event, PoissonSampled)
        exchanged.append((PoissonSampled(event.rate, gaussian) if is_sampled else gaussian, count))  # type: ignore[union-attr]  # it is sampled
        sizes.append((noise.variance, noise.dimension * count))
    eta = distance(sizes, log_tau)
    return Substitution(tuple(exchanged), eta) if math.isfinite(eta) else None


def distance(sizes: Sequence[tuple[float, int]], log_tau: float) -> float:
    """Bound eta on |log S/R| of independent coordinates, outside events of probability tau under S and under R.

    Half of tau is for coordinates beyond K standard deviations; K is chosen so. The rest is Chernoff's bound at an
    order t >= 1. With w = S/R - 1 = exp(l) - 1 and Taylor's theorem, under S and under R

        E_S[(S/R)^t] = E_R[(1 + w)^(t+1)] <= 1 + (t+1) E_R[w] + t (t+1) / 2 E_R[w^2 exp((t-1) |l|)]
        E_R[(R/S)^t] = E_R[(1 + w)^(-t)]  <= 1 -     t E_R[w] + t (t+1) / 2 E_R[w^2 exp((t+2) |l|)]

    with E_R[w] = 0 but for what lies beyond K, and w^2 <= l^2 exp(2 |l|). On |y| <= K, B(y) <= slope y^2 + 0.3 with
    slope = K^2/24 + 0.3, so the last expectation is one of B(y)^2 under a wider Gaussian, see `_growth`.

    Args:
        sizes: pairs (mu, coordinates): the variances of the noise, each >= LEAST_VARIANCE, and how many have it.
        log_tau: natural logarithm of tau, < 0.

    Returns:
        eta >= 0; infinity where nothing is proved; 0 for no coordinates.
    """
    if not sizes:
        return 0.0
    least, total = min(mu for mu, _ in sizes), sum(count for _, count in sizes)
    reach = _reach(least, total, log_tau - math.log(2))
    if reach > math.sqrt(least) / 10:
        return math.inf
    slope = reach**2 / 24 + 0.3
    orders = _TRIES * least / (4 * slope) - 4  # so that the wider Gaussian has at most twice the variance, nearly
    orders = orders[orders >= 1]
    if not orders.size:
        return math.inf
    growth = sum(count * _growth(orders, mu, slope) for mu, count in sizes)
    # Coordinates beyond K are left out of the expectations, where w is not 0 on average: by at most their probability.
    growth += (orders + 1) * math.exp(log_tau)
    return float(((growth - (log_tau - math.log(2))) / orders).min())


def _reach(mu: float, total: int, log_tau: float) -> float:
    """K with total * P(|k| > K sqrt(mu)) <= tau, for both laws.

    Chernoff for Skellam noise: exp(-y^2/2 + y^4/(24 mu)) on each side, because mu (cosh l - 1) - l k is least at
    sinh l = k / mu, where it is mu g(k / mu) with g(x) <= -x^2/2 + x^4/24. Rounded Gaussian noise is smaller but for
    the half that rounding adds.
    """
    wanted = math.log(2 * total) - log_tau
    reach = math.sqrt(2 * wanted)
    for _ in range(8):  # the quartic term is below one tenth for every variance that counts: this converges
        reach = math.sqrt(2 * (wanted + reach**4 / (24 * mu)))
    return reach + 0.5 / math.sqrt(mu) + 1e-9


def _growth(orders: Orders, mu: float, slope: float) -> Orders:
    """T (t+1) / 2 E_R[l^2 exp((t+4) |l|)] of one coordinate at each order t, with |l| <= B(y) / mu.

    y = k / sqrt(mu) and k is a Gaussian rounded to an integer, so |y| <= |Z| + 0.005 for a standard Gaussian Z and
    mu >= 1e4, and y^2 <= 1.0201 Z^2 + 0.0051. Then exp(c B(y)) <= exp(c (0.3 + 0.0051 slope)) exp(a Z^2 / 2) with
    c = (t+4) / mu and a = 2.0402 c slope, and E[f(Z) exp(a Z^2/2)] = sqrt(v) E[f(sqrt(v) Z)], v = 1 / (1 - a).
    """
    c = (orders + 4) / mu
    variance = 1 / (1 - 2.0402 * c * slope)
    factor = np.sqrt(variance) * np.exp(c * (0.3 + 0.0051 * slope)) / mu**2
    return np.asarray(orders * (orders + 1) / 2 * _square(variance) * factor)


def _square(variance: Orders) -> Orders:
    """Bound on E[B(y)^2] with Z of this variance: moments 1, v, 3 v^2, 15 v^3, 105 v^4.

    |y| <= 1.01 |Z| where |Z| >= 0.5, and |y| <= 0.505 elsewhere, where B(y)^2 < 0.15.
    """
    v = 1.0201 * variance
    return np.asarray(105 * v**4 / 576 + 15 * v**3 * 0.025 + 3 * v**2 * 0.115 + v * 0.18 + 0.09 + 0.15)
