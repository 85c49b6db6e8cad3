"""Skellam noise beside rounded Gaussian noise of the same variance: both laws and the logarithm of their ratio.

40 digits, from the definitions; nothing of the product's bounds.
"""

from __future__ import annotations

import mpmath

DIGITS = 40


def skellam_law(variance: float, reach: int) -> list[mpmath.mpf]:
    """P(X = k) for k = 0..reach, X the difference of two Poisson variables of mean variance / 2 each (Skellam 1946).

    P(k) is exp(-mu) I_k(mu) up to its sum, which is one. Bessel functions by their recurrence downwards,
    I_(k-1) = I_(k+1) + (2 k / mu) I_k (DLMF 10.29.1), from so far out that what it begins with has died away (Miller).
    """
    with mpmath.workdps(DIGITS):
        mu, first = mpmath.mpf(variance), 2 * reach + 200
        after, here = mpmath.mpf(0), mpmath.mpf(10) ** -300
        values = [mpmath.mpf(0)] * (first + 1)
        for k in range(first, -1, -1):
            values[k] = here
            after, here = here, after + 2 * k / mu * here
        total = values[0] + 2 * mpmath.fsum(values[1:])
        return [value / total for value in values[: reach + 1]]


def rounded_gaussian(k: int, variance: float) -> mpmath.mpf:
    """P(round(G) = k) for a Gaussian of this variance."""
    with mpmath.workdps(DIGITS):
        width = mpmath.sqrt(2 * mpmath.mpf(variance))
        low, high = (abs(k) - mpmath.mpf(1) / 2) / width, (abs(k) + mpmath.mpf(1) / 2) / width
        return (mpmath.erfc(low) - mpmath.erfc(high)) / 2
