"""Tight epsilon for continuous Gaussian noise: the exact profile, or privacy-loss distributions when sampled."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fedinfer.privacy.accounting.events import GaussianEvent, Plain, PoissonSampled, moved
from fedinfer.privacy.accounting.sampled import sampled_distribution
from fedinfer.types import Relation

_MIN_PROFILE_DELTA = 1e-11
"""Below this the subtraction in the profile loses digits; the RDP bound is used instead."""
_STEPS = (2.0**-15, 2.0**-10)
"""Finest and coarsest grid of privacy-loss values."""


def has_pld() -> bool:
    """True when dp-accounting is installed."""
    return importlib.util.find_spec("dp_accounting") is not None


def profile_epsilon(events: Sequence[tuple[Plain, int]], delta: float, relation: Relation) -> float:
    """Exact epsilon of composed unsampled Gaussian mechanisms.

    They compose to one with 1/z^2 = sum of the 1/z_i^2 (Dong, Roth and Su 2022, Corollary 3.3), whose profile is
    delta(epsilon) = Phi(m/2 - epsilon/m) - exp(epsilon) Phi(-m/2 - epsilon/m), m = 1/z (Balle and Wang 2018,
    Theorem 8). Adaptive choice of later steps is covered. Replace-one doubles m.

    Args:
        events: pairs of GaussianEvent and count.
        delta: in (0, 1).
        relation: neighbouring relation.

    Returns:
        Epsilon, rounded up; infinity where double precision cannot tell.
    """
    total = sum(count / event.noise_multiplier**2 for event, count in events if isinstance(event, GaussianEvent))
    return gaussian_epsilon_of(math.sqrt(total) * moved(relation), delta)


def gaussian_epsilon_of(m: float, delta: float) -> float:
    """Exact epsilon of one Gaussian mechanism, see `profile_epsilon`.

    Args:
        m: how far the sum moves over the standard deviation of the noise, > 0.
        delta: in (0, 1).

    Returns:
        Epsilon, rounded up; infinity where double precision cannot tell.
    """
    if delta < _MIN_PROFILE_DELTA or m > 20:
        return math.inf
    low, high = 0.0, m * m / 2 + m * math.sqrt(2 * math.log(1 / delta))
    if _profile_delta(low, m) <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _profile_delta(middle, m) <= delta else (middle, high)
    return high


def _profile_delta(epsilon: float, m: float) -> float:
    """Upper bound on the profile: the last term allows for rounding, so that epsilon is never too small."""
    root = math.sqrt(2)
    inside = 0.5 * math.erfc((epsilon / m - m / 2) / root)
    outside = 0.5 * math.exp(epsilon) * math.erfc((epsilon / m + m / 2) / root)
    return inside - outside + 1e-14


def pld_epsilon(events: Sequence[tuple[Plain, int]], delta: float, relation: Relation, near: float) -> float:
    """Epsilon of Gaussian mechanisms, some Poisson-sampled.

    Add-or-remove-one and zero-out-one: the dominating pairs are those of Zhu, Dong and Wang 2022, Theorem 11 (both
    directions are composed, the worse one counts). Replace-one: the pair of `_pld_of_one`. Discretised pessimistically
    by dp-accounting (connect-the-dots, Doroshenko et al. 2022).

    Args:
        events: pairs of event and count; GaussianEvent or PoissonSampled of one.
        delta: in (0, 1).
        relation: neighbouring relation.
        near: an upper bound on the answer; the grid is chosen fine enough for it. Any grid gives a valid bound.

    Returns:
        Epsilon >= 0; 0 for no events. Needs dp-accounting: ask `has_pld` first.
    """
    step = min(_STEPS[1], max(_STEPS[0], 2.0 ** math.floor(math.log2(max(near, 1e-9) / 8_000))))
    # Unsampled Gaussians become one exactly (see `profile_epsilon`), so only sampled ones add discretisation error.
    precision = sum(n / event.noise_multiplier**2 for event, n in events if isinstance(event, GaussianEvent))
    total = _pld(1 / math.sqrt(precision), 1.0, 1, step, relation) if precision else None
    for event, count in events:
        if isinstance(event, PoissonSampled) and isinstance(event.event, GaussianEvent):
            part = _pld(event.event.noise_multiplier, event.rate, count, step, relation)
            total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _pld(noise_multiplier: float, rate: float, count: int, step: float, relation: Relation) -> Any:
    one = _pld_of_one(noise_multiplier, rate, step, relation)
    return one if count == 1 else one.self_compose(count)


@lru_cache(maxsize=64)
def _pld_of_one(noise_multiplier: float, rate: float, step: float, relation: Relation) -> Any:
    """Privacy-loss distribution of a Gaussian mechanism on a Poisson sample at `rate`.

    Kept apart: a run asks after each round, with one step more, and this part takes nine tenths of the time.

    **Replace-one.** The other rows are conditioned on (hockey-stick divergences are jointly convex), and the row's coin
    is the same for both neighbours, so with noise of standard deviation s the laws are (1-q) N(0) + q N(v) and
    (1-q) N(0) + q N(w), |v|, |w| <= 1, moved by the same vector. For every a >= 0 and all v, w their hockey-stick
    divergence is at most that of v = e, w = -e for a unit vector e, which is the pair that is composed here.

    Proof. Divide by the density of N(0): the divergence is E[h(q V - a q W - c)] under N(0), with h(t) = max(t, 0),
    c = (1-q)(a - 1), and V = exp(X - E X^2 / 2), W = exp(Y - E Y^2 / 2) for the centred Gaussian pair X = <v, x> / s^2,
    Y = <w, x> / s^2 with variances |v|^2 / s^2, |w|^2 / s^2 and covariance <v, w> / s^2. Let K(t) be the straight line
    from this covariance matrix to that of v = e, w = -e, and h be smoothed (it is a limit of smooth convex functions
    that grow linearly). Then, as in Kahane 1985, *Sur le chaos multiplicatif*, d/dt E[F(V, W)] = 1/2 sum_ij K'_ij
    E[V_i V_j F_ij] for F(V, W) = h(q V - a q W - c), where F_VV = q^2 h'', F_WW = a^2 q^2 h'' and F_VW = -a q^2 h''
    with h'' >= 0. Both variances grow (|v|, |w| <= 1) and the covariance falls (<v, w> >= -1), so no term is negative
    and the divergence grows along the line. The pair is symmetric under x -> -x, so one direction is both. []

    Without sampling it is N(1) against N(-1), the Gaussian mechanism at twice the norm. Domination survives adaptive
    composition (Zhu, Dong and Wang 2022, Theorem 10).
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    is_replaced = relation is Relation.REPLACE_ONE
    if rate < 1 and not is_replaced:
        return sampled_distribution(noise_multiplier, rate, step)
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=step,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.REPLACE_ONE if is_replaced else NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
