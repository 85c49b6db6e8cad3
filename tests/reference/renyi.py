"""Rényi divergence of laws on integer vectors, and the ways from it to (epsilon, delta), without a line of the product.

A law is a dictionary from values to probabilities. Every sum is term by term, in 40 decimal digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import mpmath

Law = dict[tuple[int, ...], mpmath.mpf]


def joint(probability: Callable[[int], mpmath.mpf], shift: Sequence[int], reach: int) -> tuple[Law, Law]:
    """Independent coordinates with `probability`, and the same moved by `shift`, on the cube -reach..reach.

    Not normalised: what lies outside the cube is left away from both.
    """
    known = {k: probability(k) for k in range(-reach - max(map(abs, shift)), reach + max(map(abs, shift)) + 1)}
    still, moved = {}, {}
    for point in itertools.product(range(-reach, reach + 1), repeat=len(shift)):
        still[point] = mpmath.fprod(known[x] for x in point)
        moved[point] = mpmath.fprod(known[x - by] for x, by in zip(point, shift, strict=True))
    return still, moved


def mixture(without: Law, with_unit: Law, rate: float) -> Law:
    """What a unit that takes part with probability `rate` makes of the law."""
    q = mpmath.mpf(rate)
    return {point: (1 - q) * without[point] + q * with_unit[point] for point in without}


def divergence(p: Law, q: Law, order: int) -> mpmath.mpf:
    """D_order(P || Q) = log( sum_x P(x)^order Q(x)^(1 - order) ) / (order - 1) (Rényi 1961; Mironov 2017, Def. 3)."""
    return mpmath.log(mpmath.fsum(p[x] ** order * q[x] ** (1 - order) for x in p)) / (order - 1)


def sampled(curve: Callable[[int], mpmath.mpf], rate: float, order: int) -> mpmath.mpf:
    """D_order(M || P0) for M = (1 - q) P0 + q P1 from D_l(P1 || P0), by the binomial theorem.

    E_P0[(1 - q + q P1/P0)^a] = sum_l C(a, l) (1 - q)^(a - l) q^l E_P0[(P1/P0)^l]; the last is exp((l - 1) D_l), and 1
    for l = 0 and 1 (Mironov, Talwar and Zhang 2019, section 3.3; Zhu and Wang 2019, Theorem 6).
    """
    q = mpmath.mpf(rate)
    terms = (
        mpmath.binomial(order, el)
        * (1 - q) ** (order - el)
        * q**el
        * (mpmath.exp((el - 1) * curve(el)) if el > 1 else 1)
        for el in range(order + 1)
    )
    return mpmath.log(mpmath.fsum(terms)) / (order - 1)


def sampled_replace(curve: Callable[[int], mpmath.mpf], rate: float, order: int) -> mpmath.mpf:
    """Replace one = take away, then add: D_a(P || Q) <= (a - 1/2)/(a - 1) D_2a(P || R) + D_(2a-1)(R || Q).

    Mironov 2017, Proposition 11 with p = q = 2; R is the law without the unit.
    """
    a = mpmath.mpf(order)
    return (a - mpmath.mpf(1) / 2) / (a - 1) * sampled(curve, rate, 2 * order) + sampled(curve, rate, 2 * order - 1)


def delta_of(divergences: Iterable[tuple[int, mpmath.mpf]], epsilon: mpmath.mpf) -> mpmath.mpf:
    """Least delta of the bounds (order, divergence): exp((a - 1)(D - epsilon)) / (a - 1) (1 - 1/a)^a.

    Canonne, Kamath and Steinke 2020, Proposition 12.
    """
    one = mpmath.mpf(1)
    return min(mpmath.exp((a - 1) * (d - epsilon)) / (a - 1) * (1 - one / a) ** a for a, d in divergences)


def epsilon_of(divergences: Sequence[tuple[int, mpmath.mpf]], delta: float, distance: mpmath.mpf = 0) -> mpmath.mpf:
    """Least epsilon >= 0 at which `delta_of` stays within delta: steps of a quarter, then bisection.

    `distance`: statistical distance of the sampler from its law, for each of the two neighbours. For (epsilon,
    delta')-DP of the law it leaves (epsilon, delta' + (1 + exp(epsilon)) distance)-DP.
    """

    def enough(epsilon: mpmath.mpf) -> bool:
        return delta_of(divergences, epsilon) + (1 + mpmath.exp(epsilon)) * distance <= delta

    low = high = mpmath.mpf(0)
    while not enough(high):
        low, high = high, high + mpmath.mpf(1) / 4
        if high > 200 or (1 + mpmath.exp(high)) * distance > delta:
            return mpmath.inf
    for _ in range(50 if high else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
