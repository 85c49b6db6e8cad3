"""Skellam noise from the papers, written without a line of the product: the law, its divergences and the bound.

Exact rational numbers and 40 decimal digits, term by term; slow, and easy to compare with the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import mpmath


def probability(k: int, variance: float) -> mpmath.mpf:
    """P(X = k) for X the difference of two Poisson variables of mean variance / 2 each (Skellam 1946)."""
    return mpmath.exp(-variance) * mpmath.besseli(abs(k), variance)


def renyi_divergence(shift: int, variance: float, order: int, reach: int) -> mpmath.mpf:
    """D_order(X + shift || X), summed over -reach..reach."""
    with mpmath.workdps(40):
        law = {k: probability(k, variance) for k in range(-reach - shift, reach + 1)}
        terms = (law[k - shift] ** order * law[k] ** (1 - order) for k in range(-reach, reach + 1))
        return mpmath.log(mpmath.fsum(terms)) / (order - 1)


def theorem(order: int, variance: Fraction, shift: Sequence[int]) -> Fraction:
    """Agarwal, Kairouz and Liu 2021, Theorem 3.5: alpha-Renyi divergence of Skellam noise moved by `shift`.

    alpha D2^2 / (2 mu) + min( ((2 alpha - 1) D2^2 + 6 D1) / (4 mu^2), 3 D1 / (2 mu) ), with D2 and D1 the L2 and L1
    norm of the shift and mu the variance of one coordinate.
    """
    squared, absolute = sum(Fraction(v) ** 2 for v in shift), sum(abs(Fraction(v)) for v in shift)
    return bound_of_norms(order, variance, squared, absolute)


def bound_of_norms(order, variance, squared, absolute):  # type: ignore[no-untyped-def]  # Fraction or mpf, as given
    """The same from the squared L2 norm and the L1 norm."""
    gaussian = order * squared / (2 * variance)
    second_order = ((2 * order - 1) * squared + 6 * absolute) / (4 * variance**2)
    first_order = 3 * absolute / (2 * variance)
    return gaussian + min(second_order, first_order)
