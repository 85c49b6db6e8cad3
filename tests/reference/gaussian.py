"""Gaussian noise from the papers, without a line of the product: divergences, sampled ones, exact profiles.

z is the standard deviation of the noise over the L2 norm of one unit.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath


def density(x: mpmath.mpf, mean: float, z: float) -> mpmath.mpf:
    return mpmath.npdf(x, mean, z)


def renyi(z: float, order: int, shift: int = 1) -> mpmath.mpf:
    """D_a(N(shift, z^2) || N(0, z^2)) = a shift^2 / (2 z^2) (Mironov 2017, Proposition 7)."""
    return order * mpmath.mpf(shift) ** 2 / (2 * mpmath.mpf(z) ** 2)


def sampled_renyi_by_integration(rate: float, z: float, order: float) -> mpmath.mpf:
    """D_a of (1 - q) N(0, z^2) + q N(1, z^2) against N(0, z^2), any order, as the integral that defines it.

    Mironov, Talwar and Zhang 2019, equation 2.
    """
    q, span = mpmath.mpf(rate), 12 * z

    def integrand(x: mpmath.mpf) -> mpmath.mpf:
        still = density(x, 0, z)
        return still * ((1 - q) + q * density(x, 1, z) / still) ** order

    cuts = [-span, -z, 0, 1, order / 2, order, order + z, order + span]
    return mpmath.log(mpmath.quad(integrand, sorted(cuts))) / (order - 1)


def profile(epsilon: mpmath.mpf, z: float) -> mpmath.mpf:
    """The exact delta of Gaussian noise (Balle and Wang 2018, Theorem 8)."""
    m = 1 / mpmath.mpf(z)
    return mpmath.ncdf(m / 2 - epsilon / m) - mpmath.exp(epsilon) * mpmath.ncdf(-m / 2 - epsilon / m)


def sampled_profile(epsilon: mpmath.mpf, rate: float, z: float) -> mpmath.mpf:
    """The exact delta of one Poisson-sampled release, the larger of both directions.

    P = (1 - q) N(0, z^2) + q N(1, z^2) and Q = N(0, z^2): the ratio P/Q rises with x, so the best set is a half-line,
    and sup_S P(S) - exp(epsilon) Q(S) is taken where the ratio is exp(epsilon), the other way where it is
    exp(-epsilon) (Neyman and Pearson; the pair dominates by Zhu, Dong and Wang 2022, Theorem 11).
    """
    q, z = mpmath.mpf(rate), mpmath.mpf(z)

    def place(ratio: mpmath.mpf) -> mpmath.mpf:
        """x with P(x) / Q(x) = 1 - q + q exp((2x - 1) / (2 z^2)) = ratio; -inf when the ratio is larger everywhere."""
        inner = (ratio - (1 - q)) / q
        return z**2 * mpmath.log(inner) + mpmath.mpf(1) / 2 if inner > 0 else -mpmath.inf

    def below(x: mpmath.mpf, mean: int) -> mpmath.mpf:
        return mpmath.ncdf((x - mean) / z)

    def above(x: mpmath.mpf, mean: int) -> mpmath.mpf:
        return mpmath.ncdf((mean - x) / z)

    x, y = place(mpmath.exp(epsilon)), place(mpmath.exp(-epsilon))
    joins = (1 - q) * above(x, 0) + q * above(x, 1) - mpmath.exp(epsilon) * above(x, 0)
    leaves = below(y, 0) - mpmath.exp(epsilon) * ((1 - q) * below(y, 0) + q * below(y, 1))
    return max(joins, leaves)


def epsilon_of(delta_at: Callable[[mpmath.mpf], mpmath.mpf], delta: float) -> mpmath.mpf:
    """Least epsilon >= 0 whose exact delta is within `delta`; a profile falls, so bisection finds it."""
    low, high = mpmath.mpf(0), mpmath.mpf(1)
    if delta_at(low) <= delta:
        return low
    while delta_at(high) > delta:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return high
