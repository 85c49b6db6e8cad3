"""Tight epsilon for continuous Gaussian noise: the exact profile, or privacy-loss distributions when sampled."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled, Single, moved
from fedinfer.types import Relation

_MIN_PROFILE_DELTA = 1e-11
"""Below this the subtraction in the profile loses digits; the RDP bound is used instead."""
_STEPS = (2.0**-15, 2.0**-10)
"""Finest and coarsest grid of privacy-loss values."""


def has_pld() -> bool:
    """True when dp-accounting is installed."""
    return importlib.util.find_spec("dp_accounting") is not None


def profile_epsilon(events: Sequence[tuple[Single, int]], delta: float, relation: Relation) -> float:
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


def pld_epsilon(events: Sequence[tuple[Single, int]], delta: float, near: float) -> float:
    """Epsilon of Gaussian mechanisms, some Poisson-sampled, under add-or-remove-one or zero-out-one.

    The dominating pairs are those of Zhu, Dong and Wang 2022, Theorem 11 (both directions are composed, the worse one
    counts); discretised pessimistically by dp-accounting (connect-the-dots, Doroshenko et al. 2022).

    Args:
        events: pairs of event and count; GaussianEvent or PoissonSampled of one.
        delta: in (0, 1).
        near: an upper bound on the answer; the grid is chosen fine enough for it. Any grid gives a valid bound.

    Returns:
        Epsilon >= 0; 0 for no events. Needs dp-accounting: ask `has_pld` first.
    """
    step = min(_STEPS[1], max(_STEPS[0], 2.0 ** math.floor(math.log2(max(near, 1e-9) / 8_000))))
    # Unsampled Gaussians become one exactly (see `profile_epsilon`), so only sampled ones add discretisation error.
    precision = sum(n / event.noise_multiplier**2 for event, n in events if isinstance(event, GaussianEvent))
    total = _pld(1 / math.sqrt(precision), 1.0, 1, step) if precision else None
    for event, count in events:
        if isinstance(event, PoissonSampled) and isinstance(event.event, GaussianEvent):
            part = _pld(event.event.noise_multiplier, event.rate, count, step)
            total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _pld(noise_multiplier: float, rate: float, count: int, step: float) -> Any:
    one = _pld_of_one(noise_multiplier, rate, step)
    return one if count == 1 else one.self_compose(count)


@lru_cache(maxsize=64)
def _pld_of_one(noise_multiplier: float, rate: float, step: float) -> Any:
    """Kept apart: a run asks after each round, with one step more, and this part takes nine tenths of the time."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, value_discretization_interval=step, sampling_prob=rate
    )
