"""Hypergeometric tails as exact fractions: `draws` of n without replacement, `marked` of the n are marked."""

from __future__ import annotations

import math
from fractions import Fraction


def exactly(n: int, marked: int, draws: int, hits: int) -> Fraction:
    if not 0 <= hits <= min(marked, draws) or draws - hits > n - marked:
        return Fraction(0)
    return Fraction(math.comb(marked, hits) * math.comb(n - marked, draws - hits), math.comb(n, draws))


def at_least(n: int, marked: int, draws: int, hits: int) -> Fraction:
    return sum((exactly(n, marked, draws, k) for k in range(max(hits, 0), draws + 1)), Fraction(0))


def most_marked(n: int, marked: int, draws: int, chance: Fraction) -> int:
    """Least t with Pr[more than t] <= chance."""
    return next(t for t in range(draws + 1) if at_least(n, marked, draws, t + 1) <= chance)


def fewest_marked(n: int, marked: int, draws: int, chance: Fraction) -> int:
    """Largest t <= draws with Pr[fewer than t] <= chance."""
    return max(t for t in range(draws + 1) if 1 - at_least(n, marked, draws, t) <= chance)
