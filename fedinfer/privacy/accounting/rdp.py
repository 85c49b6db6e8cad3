"""Rényi divergence bounds of every event at integer orders, sampling amplification, and the way back to epsilon.

Only numpy: a device without the training extra checks its own budget with these. All bounds hold at the orders given
and for both directions of the divergence.

* Gaussian: Mironov 2017, Proposition 7, exact.
* Skellam: Agarwal, Kairouz and Liu 2021, Theorem 3.5, for integer orders.
* Sum of discrete Gaussians: Kairouz, Liu and Steinke 2021, Proposition 14.
* Poisson sampling, add or remove: see `amplified`.
* Conversion: Canonne, Kamath and Steinke 2020, Proposition 12.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    Noise,
    NonPrivate,
    Plain,
    PoissonSampled,
    SkellamEvent,
    moved,
)
from fedinfer.types import Relation

Curve = npt.NDArray[np.float64]
"""Bounds on the Rényi divergence, one per order."""

ORDERS: npt.NDArray[np.int64] = np.unique(
    np.concatenate([np.arange(2, 129), np.round(128 * 2 ** (np.arange(1, 57) / 8))])
).astype(np.int64)
"""All orders used: 2..128, then eight per octave up to 16,384."""

_SAMPLED_LIMIT = 1024
"""Amplification is computed up to this order; beyond it the unsampled bound is charged, which is valid."""


def noise_curve(event: Noise, orders: npt.NDArray[np.int64], shift: float) -> Curve:
    """Divergence bound between the noise and the noise moved by one unit.

    Args:
        event: kind and size of the noise.
        orders: (k,) int64, each >= 2.
        shift: 1 for add-or-remove-one and zero-out-one, 2 for replace-one: the factor on both norms.

    Returns:
        (k,) float64, in nats.
    """
    alpha = orders.astype(np.float64)
    if isinstance(event, GaussianEvent):
        return alpha * shift**2 / (2 * event.noise_multiplier**2)
    if isinstance(event, SkellamEvent):
        return _skellam(alpha, event.variance, shift * event.l2, shift * event.l1)
    return _discrete_gaussian(alpha, event, shift * event.l2, shift * event.l1)


def _skellam(alpha: Curve, mu: float, l2: float, l1: float) -> Curve:
    """Agarwal et al. 2021, Theorem 3.5: mu is the variance, l2 and l1 the norms of the integer shift."""
    second = ((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * mu**2)
    return alpha * l2**2 / (2 * mu) + np.minimum(second, 3 * l1 / (2 * mu))


def discrete_gaussian_gap(variance: float, shares: int) -> float:
    """How far a sum of discrete Gaussian shares is from one discrete Gaussian, per coordinate: tau.

    Kairouz, Liu and Steinke 2021, Theorem 1.

    Args:
        variance: sigma^2 of one share, integer units, > 0.
        shares: >= 1; one share has no gap.
    """
    k = np.arange(1, min(shares, 10_000))  # the terms fall to a constant from below: bound the rest by the last
    terms = np.exp(-2 * math.pi**2 * variance * k / (k + 1))
    rest = max(0, shares - 10_000) * math.exp(-2 * math.pi**2 * variance * 0.9999)
    return 10 * (float(terms.sum()) + rest)


def _discrete_gaussian(alpha: Curve, event: DiscreteGaussianEvent, l2: float, l1: float) -> Curve:
    """Kairouz et al. 2021, Proposition 14: r2, r1 are the norms over the standard deviation of the sum."""
    sigma = math.sqrt(event.variance_per_share * event.shares)
    r2, r1, d = l2 / sigma, l1 / sigma, event.dimension
    tau = discrete_gaussian_gap(event.variance_per_share, event.shares)
    first = alpha * r2**2 / 2 + tau * d
    second = alpha / 2 * (r2**2 + 2 * r1 * tau + tau**2 * d)
    third = alpha / 2 * (r2 + math.sqrt(d) * tau) ** 2
    result: Curve = np.minimum(np.minimum(first, second), third)
    return result


@cache
def _log_factorials(n: int) -> Curve:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def amplified(curve: Curve, rate: float, orders: npt.NDArray[np.int64]) -> Curve:
    """Poisson sampling at `rate` of a mechanism with symmetric additive noise, add or remove one.

    With P0 the law without the unit, P1 with it and M = (1-q) P0 + q P1, at an integer order a

        D_a(M || P0) = log( sum_l C(a,l) (1-q)^(a-l) q^l exp((l-1) D_l(P1 || P0)) ) / (a-1)

    holds exactly (binomial theorem; Zhu and Wang 2019, Theorem 6; for the Gaussian Mironov, Talwar and Zhang 2019,
    section 3.3), so bounds on D_l give a bound. The other direction D_a(P0 || M) is not larger when a map that keeps
    the measure and is its own inverse swaps P0 and P1 (Mironov, Talwar and Zhang 2019, Theorem 5): for symmetric noise
    moved by v that map is x -> v - x. docs/privacy-accounting.md repeats the proof for discrete laws.

    Args:
        curve: bounds on D_l at l = 2, 3, ..., max(orders), (max(orders) - 1,) float64.
        rate: q, in (0, 1).
        orders: integers >= 2 at which the result is wanted, ascending.

    Returns:
        (orders,) float64.
    """
    # The binomial weights sum to one, so the sum is 1 + sum_(l>=2) weight * (exp((l-1) D_l) - 1): no cancellation.
    log_factorial = _log_factorials(int(orders[-1]))
    moments = np.arange(1, orders[-1]) * curve  # (l-1) D_l at l = 2, 3, ...
    log_growth = moments + np.log(-np.expm1(-moments))
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    result = np.empty(orders.size)
    for index, a in enumerate(orders):
        k = np.arange(2, a + 1)
        log_choose = log_factorial[a] - log_factorial[k] - log_factorial[a - k]
        terms = log_choose + (a - k) * log_rest + k * log_rate + log_growth[: a - 1]
        result[index] = np.logaddexp(0.0, np.logaddexp.reduce(terms)) / (a - 1)
    return result


def _sampled_add_remove(event: PoissonSampled) -> Curve:
    plain = noise_curve(event.event, ORDERS, 1.0)
    few = ORDERS[ORDERS <= _SAMPLED_LIMIT]
    every = np.arange(2, few[-1] + 1)
    sampled = amplified(noise_curve(event.event, every, 1.0), event.rate, few)
    # Sampling never hurts (joint convexity), so the unsampled bound is valid at any order.
    return np.concatenate([np.minimum(sampled, plain[: few.size]), plain[few.size :]])


def _sampled_replace(event: PoissonSampled) -> Curve:
    """Replace one = remove one, then add one: the weak triangle inequality (Mironov 2017, Proposition 11, p = q = 2).

    D_a(P||Q) <= (a-1/2)/(a-1) D_2a(P||R) + D_(2a-1)(R||Q), with R the law without the unit. The unsampled bound at
    double norms holds too, and the smaller of the two is taken.
    """
    plain = noise_curve(event.event, ORDERS, 2.0)
    few = ORDERS[2 * ORDERS <= _SAMPLED_LIMIT]
    every = np.arange(2, 2 * few[-1] + 1)
    wanted = np.unique(np.concatenate([2 * few, 2 * few - 1]))
    curve = dict(zip(wanted, amplified(noise_curve(event.event, every, 1.0), event.rate, wanted), strict=True))
    path = np.array([(a - 0.5) / (a - 1) * curve[2 * a] + curve[2 * a - 1] for a in few])
    return np.concatenate([np.minimum(path, plain[: few.size]), plain[few.size :]])


@lru_cache(maxsize=4096)
def event_curve(event: Plain, relation: Relation) -> Curve:
    """Bounds on the Rényi divergence of one event at ORDERS, read-only; cached.

    Args:
        event: one event that is not made of others.
        relation: neighbouring relation.

    Returns:
        (ORDERS,) float64, in nats; infinite for `NonPrivate`.
    """
    if isinstance(event, NonPrivate):
        curve = np.full(ORDERS.size, np.inf)
    elif isinstance(event, PoissonSampled) and event.rate < 1:
        curve = _sampled(event, relation)
    else:
        noise = event.event if isinstance(event, PoissonSampled) else event
        curve = noise_curve(noise, ORDERS, moved(relation))
    curve.setflags(write=False)
    return curve


def _sampled(event: PoissonSampled, relation: Relation) -> Curve:
    match relation:
        case Relation.REPLACE_ONE:
            return _sampled_replace(event)
        case Relation.ADD_REMOVE | Relation.ZERO_OUT:
            return _sampled_add_remove(event)
        case _:
            assert_never(relation)


def to_epsilon(curve: Curve, delta: float) -> float:
    """The least epsilon that Canonne, Kamath and Steinke 2020, Proposition 12, gives for one of the orders.

    (a, tau)-RDP implies (epsilon, delta)-DP with
    delta = exp((a-1)(tau-epsilon)) / (a-1) * (1-1/a)^a, solved for epsilon here.

    Args:
        curve: total divergence bound at each of ORDERS, nats.
        delta: in (0, 1).

    Returns:
        Epsilon >= 0; infinite when one of the bounds is not a number.
    """
    alpha = ORDERS.astype(np.float64)
    epsilons = curve + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    least = float(epsilons.min())
    return math.inf if math.isnan(least) else max(0.0, least)  # `max` would make 0 of what is not a number


def to_epsilon_as_of_2017(curve: Curve, delta: float) -> float:
    """As `to_epsilon` by Mironov 2017, Proposition 3: a larger bound, on which most figures printed before 2020 rest.

    Args:
        curve: total divergence bound at each of ORDERS, nats.
        delta: in (0, 1).
    """
    return float((curve + math.log(1 / delta) / (ORDERS - 1)).min())
