"""Sums of discrete Gaussians from the papers, without a line of the product: the law, its sums, the proven bound."""

from __future__ import annotations

import mpmath


def weight(k: int, variance: float) -> mpmath.mpf:
    return mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(variance)))


def law(variance: float, reach: int) -> dict[int, mpmath.mpf]:
    """P(X = k), proportional to exp(-k^2 / (2 variance)) (Canonne, Kamath and Steinke 2020, Definition 1)."""
    total = mpmath.fsum(weight(k, variance) for k in range(-reach, reach + 1))
    return {k: weight(k, variance) / total for k in range(-reach, reach + 1)}


def of_a_sum(variance: float, shares: int, reach: int) -> dict[int, mpmath.mpf]:
    """The law of a sum of independent shares on -reach..reach, by convolution; each share on -reach..reach too."""
    one = law(variance, reach)
    total = one
    for _ in range(shares - 1):
        total = {
            k: mpmath.fsum(total[j] * one[k - j] for j in range(max(-reach, k - reach), min(reach, k + reach) + 1))
            for k in one
        }
    return total


def gap(variance: float, shares: int) -> mpmath.mpf:
    """Tau: ten times the sum over k = 1..shares - 1 of exp(-2 pi^2 variance k / (k + 1)).

    Kairouz, Liu and Steinke 2021, Theorem 1, in integer units (their gamma is 1 here).
    """
    exponent = -2 * mpmath.pi**2 * mpmath.mpf(variance)
    return 10 * mpmath.fsum(mpmath.exp(exponent * k / (k + 1)) for k in range(1, shares))


def theorem(order: int, variance: float, shares: int, l2: float, l1: float, dimension: int) -> mpmath.mpf:
    """Kairouz, Liu and Steinke 2021, Proposition 14: the least of three bounds on the divergence of `order`."""
    sigma, tau = mpmath.sqrt(shares * mpmath.mpf(variance)), gap(variance, shares)
    r2, r1, a = mpmath.mpf(l2) / sigma, mpmath.mpf(l1) / sigma, mpmath.mpf(order)
    return min(
        a / 2 * r2**2 + tau * dimension,
        a / 2 * (r2**2 + 2 * r1 * tau + tau**2 * dimension),
        a / 2 * (r2 + tau * mpmath.sqrt(dimension)) ** 2,
    )
