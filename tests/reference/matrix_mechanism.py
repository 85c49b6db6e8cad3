"""Sensitivity of the banded matrix mechanism by brute force: every schedule, every choice of signs, no theorem.

A unit that takes part in rounds p_1 < p_2 < ... with vectors of norm 1 moves C G by ||sum_i C[:, p_i] v_i||. For fixed
rounds that is convex in each vector, so it is largest for unit vectors; where all inner products of the columns are not
negative, equal vectors are best, and signs (vectors of dimension 1) are the check of it (Choquette-Choo et al. 2023).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import mpmath


def square_root(bands: int) -> list[Fraction]:
    """Taylor coefficients of (1 - x)^(-1/2), c_k = binom(2k, k) / 4^k (Fichtenberger et al. 2023)."""
    return [Fraction(int(mpmath.binomial(2 * k, k)), 4**k) for k in range(bands)]


def column(coefficients: Sequence[Fraction], start: int, rounds: int) -> list[Fraction]:
    """Column `start` of the Toeplitz matrix C."""
    return [coefficients[t - start] if 0 <= t - start < len(coefficients) else Fraction(0) for t in range(rounds)]


def schedules(rounds: int, limit: int, separation: int) -> Iterator[tuple[int, ...]]:
    """Every set of rounds that a unit may take part in."""
    for size in range(limit + 1):
        for chosen in itertools.combinations(range(rounds), size):
            if all(b - a >= separation for a, b in itertools.pairwise(chosen)):
                yield chosen


def squared_sensitivity(coefficients: Sequence[Fraction], rounds: int, limit: int, separation: int) -> Fraction:
    """Largest ||sum_i s_i C[:, p_i]||^2 over schedules and signs."""
    columns = [column(coefficients, start, rounds) for start in range(rounds)]
    return max(
        sum(
            (
                sum((s * columns[p][t] for s, p in zip(signs, chosen, strict=True)), Fraction(0)) ** 2
                for t in range(rounds)
            ),
            Fraction(0),
        )
        for chosen in schedules(rounds, limit, separation)
        for signs in itertools.product((1, -1), repeat=len(chosen))
    )


def inverse(coefficients: Sequence[Fraction], rounds: int) -> list[list[Fraction]]:
    """C^-1 by Gaussian elimination: forward substitution for every unit vector."""
    c = [column(coefficients, start, rounds) for start in range(rounds)]  # c[j][i] is C[i, j], the diagonal is 1
    rows = [[Fraction(int(i == j)) for j in range(rounds)] for i in range(rounds)]
    for i in range(rounds):
        for k in range(i):
            rows[i] = [own - c[k][i] * above for own, above in zip(rows[i], rows[k], strict=True)]
    return rows


def squared_error(coefficients: Sequence[Fraction], rounds: int, kept: Fraction = Fraction(1)) -> Fraction:
    """Largest variance, for Z of variance 1, in a sum of C^-1 Z whose terms fade by `kept` a round: 1, a prefix sum."""
    back = inverse(coefficients, rounds)
    faded = [
        [sum((kept ** (t - s) * back[s][j] for s in range(t + 1)), Fraction(0)) for j in range(rounds)]
        for t in range(rounds)
    ]
    return max(sum((x * x for x in row), Fraction(0)) for row in faded)
